"""The page says the verdict in a sentence, shows the worst first, and can be read without its script."""

from __future__ import annotations

import re
from typing import Any

import pytest

from spectron_migrate.verify.reports.page import html_report
from spectron_migrate.verify.reports.text import rank_change, reason_text
from spectron_migrate.verify.reports.wording import verdict_sentence, verdict_title


def gate(name: str, passed: bool | None, **more: Any) -> dict[str, Any]:
    plain = {"value": 0, "limit": 0, "hint": "", "measured": True, "decides": True, "accepted": False}
    return {"name": name, "passed": passed, **plain, **more}


def answer(number: int, mem0: list[str], spectron: list[str], *, success: float = 1.0, **more: Any) -> dict[str, Any]:
    """A query whose hits are named by their memories."""
    return {
        "no": number,
        "owner": "alice",
        "query": f"question {number}",
        "expect": mem0[:1],
        "differences": [],
        "measures": {"mem0": {"success": 1.0}, "spectron": {"success": success}, "overlap": 1.0},
        "mem0": {
            "error": None,
            "ms": 1.0,
            "hits": [{"id": one, "text": f"text of {one}", "mark": one} for one in mem0],
        },
        "spectron": {
            "error": None,
            "ms": 1.0,
            "hits": [{"memory": one, "text": f"text of {one}", "mark": one, "dropped": ""} for one in spectron],
        },
        **more,
    }


def report(verdict: str, gates: list[dict[str, Any]], answers: Any = (), **integrity: int) -> dict[str, Any]:
    found = {"expected": 1204, "present": 1204, "misplaced": 0, "skipped_by_reason": {}, **integrity}
    both = {"mem0": 0.9, "spectron": 0.91}
    metrics = {
        "queries": 100,
        "success": both,
        "mrr": both,
        "ndcg": both,
        "word_overlap": 0.6,
        "difference": {"mean": 0.01, "low": -0.01, "high": 0.03, "n": 100, "units": "queries"},
        "noise_floor": {"overlap": None},
    }
    return {
        "verdict": verdict,
        "migration": "m",
        "context": "acme",
        "endpoint": "https://spectron.example",
        "ended": "2026-01-02T03:04:05.000000Z",
        "version": "1.0",
        "gates": gates,
        "options": {"margin": 0.02},
        "measured": {
            "integrity": found,
            "isolation": {"leaks": 0, "questions": 400},
            "recall": {"mem0": "mem0ai 2.2.1", "made_of": "a file", "metrics": metrics},
        },
        "findings": [],
        "by_owner": [],
        "answers": list(answers),
    }


@pytest.mark.parametrize(
    ("verdict", "gates", "sentence"),
    [
        (
            "GO",
            [gate("missing", True), gate("recall", True)],
            "Safe to move: 1,204 of 1,204 memories are there, nobody sees another's, recall is as good as Mem0's,"
            " within 2 points.",
        ),
        (
            "GO",
            [gate("missing", True), gate("recall", None, accepted=True)],
            "Safe to move: 1,204 of 1,204 memories are there, nobody sees another's, recall was accepted without being"
            " decided.",
        ),
        (
            "NO_GO",
            [gate("altered", False), gate("recall", None)],
            "Do not move yet: altered failed. 1,204 of 1,204 memories are there, nobody sees another's.",
        ),
        (
            "INCONCLUSIVE",
            [gate("source", None, measured=False), gate("recall", None), gate("asked", None, accepted=True)],
            "Not decided yet: source, recall are open. 1,204 of 1,204 memories are there, nobody sees another's.",
        ),
    ],
)
def test_the_verdict_is_a_sentence(verdict: str, gates: list[dict[str, Any]], sentence: str) -> None:
    assert sentence == verdict_sentence(report(verdict, gates))
    assert sentence.replace("'", "&#x27;") in html_report(report(verdict, gates))


def test_a_verdict_of_one_user_is_not_one_of_everybody() -> None:
    """Isolation had nothing to test, and this verdict opens no gate of a cutover."""
    isolation = gate("isolation", None, measured=False, decides=False)
    found = report("GO", [gate("missing", True), isolation, gate("recall", True)])
    found["options"]["users"] = ["alice"]
    found["measured"]["isolation"] = {"leaks": 0, "questions": 0}
    sentence = verdict_sentence(found)
    assert "Safe to move" not in sentence
    assert "nobody sees another's" not in sentence
    assert sentence.startswith(
        "For user alice alone, 1,204 of 1,204 memories are there, whether others can see them was"
    )
    assert sentence.endswith("The cutover needs a verification of everybody.")
    assert "GO for user alice alone" == verdict_title(found)
    page = html_report(found)
    assert "GO for user alice alone" in page
    assert "not tested" in page


def test_open_gates_are_shown_with_their_reason_and_the_others_folded_with_their_meaning() -> None:
    page = html_report(report("INCONCLUSIVE", [gate("missing", True), gate("recall", None, hint="ask more queries")]))
    before, folded = page.split("<details", 1)
    assert "ask more queries" in before
    assert "Every memory of the dump has its turn in Spectron." in folded
    assert "1 of 2 gates do not stand in the way" in folded


def test_what_mem0_alone_found_comes_first() -> None:
    answers = [
        answer(0, ["a"], ["a"]),
        answer(1, ["b"], [], success=0.0),
        answer(2, ["c"], ["c"], measures={"mem0": {"success": 1.0}, "spectron": {"success": 1.0}, "overlap": 0.2}),
    ]
    page = html_report(report("GO", [], answers))
    assert ["question 1", "question 2", "question 0"] == re.findall(r"<h3>(question \d)</h3>", page)


def test_a_hit_says_what_rank_it_had_and_which_words_differ() -> None:
    found = answer(0, ["a", "b", "c"], ["c", "b"])
    found["spectron"]["hits"][1]["text"] = "text written by b"
    page = html_report(report("GO", [], [found]))
    assert '<span class="rank">3 → 1</span>' in page
    assert "text <mark>written</mark> <mark>by</mark> b" in page


def test_a_memory_that_is_not_among_the_hits_says_why_beside_its_text() -> None:
    why = {"id": "b", "why": "ranked_lower", "detail": "at rank 7", "texts": {}}
    page = html_report(report("GO", [], [answer(0, ["a", "b"], ["a"], differences=[why])]))
    assert re.search(r"text of b <span class=.why.>ranked lower, at rank 7</span>", page)


def test_five_figures_stand_below_the_verdict() -> None:
    page = html_report(report("GO", [gate("lost", True, value=0)], misplaced=2, present=1200))
    shown = page.partition('<section class="tiles">')[2].partition("</section>")[0]
    found = re.findall(r'class="card tile (\w*)"><span class="soft">(\w+)</span><strong>([^<]*)</strong>', shown)
    assert [
        ("bad", "present", "1,200"),
        ("bad", "placed", "2"),
        ("good", "isolated", "0"),
        ("open", "recall", "0.910"),
        ("good", "lost", "0"),
    ] == found


def test_skipped_rows_are_counted_by_reason() -> None:
    page = html_report(report("GO", [], skipped_by_reason={"expired": 3, "empty text": 1}))  # type: ignore[arg-type]
    shown = re.findall(r"<td>skipped: ([^<]+)</td><td class=.number.>(\d+)</td>", page)
    assert [("expired", "3"), ("empty text", "1")] == shown


def test_queries_can_be_filtered_by_user_reason_and_scope() -> None:
    why = {"id": "b", "why": "ranked_lower", "detail": "", "texts": {}}
    asked = answer(0, ["a", "b"], ["a"], differences=[why], scopes=["user/alice", "user/alice/*"])
    page = html_report(report("GO", [], [asked, answer(1, ["a"], ["a"], owner="bob", scopes=["user/bob"])]))

    def choices(name: str) -> list[str]:
        select = page.partition(f'<select id="{name}">')[2].partition("</select>")[0]
        return re.findall(r'<option value="([^"]+)"', select)

    assert ["alice", "bob"] == choices("user")
    assert ["ranked_lower"] == choices("why")
    assert ["user/alice", "user/alice/*", "user/bob"] == choices("scope")
    assert '<input id="words" type="search">' in page
    assert 'data-user="bob" data-why="" data-scopes="[&quot;user/bob&quot;]"' in page


def test_the_page_fits_a_telephone_paper_and_the_dark() -> None:
    style = html_report(report("GO", [])).partition("<style>")[2].partition("</style>")[0]
    assert {"prefers-color-scheme:dark", "max-width:560px", "print"} == set(re.findall(r"@media ?\(?([\w:-]+)", style))
    # A fieldset is as wide as its longest scope otherwise, and the whole page with it.
    assert re.search(r"fieldset\{[^}]*min-width:0\}label\{max-width:100%\}", style.replace("\n", ""))


def test_what_is_wrong_stands_below_each_other_on_a_telephone() -> None:
    finding = {"kind": "altered", "id": "m1", "reason": "its text", "where": "turn 3", "texts": {"found": "tea"}}
    page = html_report({**report("NO_GO", []), "findings": [finding]})
    [row] = re.findall(r"<table class=stacks>.*?<tbody>(<tr>.*?</tr>)", page)
    assert ["reason", "where", "memory"] == re.findall(r"data-of=(\w+)", row)
    assert ".stacks td{display:block}" in page.partition("max-width:560px")[2]


def test_without_its_script_the_page_hides_nothing_but_the_filters() -> None:
    page = html_report(report("GO", [], [answer(0, ["a"], ["a"])])).partition("<script>")[0]
    assert ['<fieldset id="filters" hidden>'] == re.findall(r"<[^>]* hidden[^>]*>", page.partition("</style>")[2])


@pytest.mark.parametrize(("before", "now", "shown"), [(3, 1, "3 → 1"), (2, 2, "2"), (None, 4, "4")])
def test_ranks(before: int | None, now: int, shown: str) -> None:
    assert shown == rank_change(before, now)


def test_a_reason_without_a_detail() -> None:
    assert "not found" == reason_text({"why": "not_found", "detail": ""})


def past(ended: str, verdict: str, spectron: float, **more: Any) -> dict[str, Any]:
    plain = {"migration": "m", "expected": 1204, "present": 1200, "leaks": 0, "mem0": 0.9, "open": ["recall"]}
    return {"ended": ended, "verdict": verdict, "spectron": spectron, **plain, **more}


def test_the_first_verification_shows_no_trend_and_a_later_one_shows_them_all_newest_first() -> None:
    assert "Verifications so far" not in html_report(report("GO", [gate("missing", True)]))

    earlier = [past("2026-01-01T10:00:00Z", "NO_GO", 0.4), past("2026-01-01T12:00:00Z", "INCONCLUSIVE", 0.7)]
    page = html_report({**report("GO", [gate("missing", True)]), "past": earlier})
    shown = page.partition("Verifications so far")[2]
    assert ["GO", "INCONCLUSIVE", "NO_GO"] == re.findall(r"<b>(GO|NO_GO|INCONCLUSIVE)</b>", shown)
    assert 6 == shown.count("<circle")


def test_a_verification_without_recall_has_no_point_in_the_trend() -> None:
    earlier = [past("2026-01-01T10:00:00Z", "NO_GO", 0.4), past("2026-01-01T12:00:00Z", "GO", None, mem0=None)]
    page = html_report({**report("GO", []), "past": earlier})
    assert 4 == page.count("<circle")


def test_the_steps_of_the_cutover_are_told_in_words_and_their_reasons_escaped() -> None:
    steps = [
        {"step": "start", "at": "2026-01-01T10:00:00Z", "who": "ann@host", "why": None, "percent": None, "gate": None},
        {
            "step": "shift",
            "at": "2026-01-02T10:00:00Z",
            "who": "ann",
            "why": "<b>ok</b>",
            "percent": 12.5,
            "gate": None,
        },
        {"step": "accept", "at": "2026-01-03T10:00:00Z", "who": "ann", "why": "x", "percent": None, "gate": "calls"},
    ]
    page = html_report({**report("GO", []), "cutover": steps}).partition("<h2>Cutover</h2>")[2]
    assert "the cutover began" in page
    assert "12.5 % of users are read from Spectron" in page
    assert "gate calls was accepted" in page
    assert "<b>ok</b>" not in page


def test_the_fullest_scopes_are_named_and_the_others_counted() -> None:
    scopes = [{"selector": [[f"user/u{number}"]], "memories": 100 - number} for number in range(60)]
    page = html_report({**report("GO", []), "scopes": scopes})
    assert "60 scopes hold memories" in page
    assert "user/u49" in page
    assert "user/u50" not in page
    assert "10 more scopes" in page
