"""Which memory a hit of Spectron's is: by the ledger's ids, then by text, never by score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.judge import Candidates, Hit, Ignored, Known, Matched, Unmatched, judge, judge_all, plain

LISBON = Known("m-lisbon", "Lives in Lisbon", turn_id="turn:1", chunk_id="chunk:1", ids=frozenset({"attr:1", "ent:a"}))
BERLIN = Known("m-berlin", "Lives in Berlin", turn_id="turn:2", chunk_id="chunk:2", ids=frozenset({"attr:2", "ent:a"}))
TEA = Known("m-tea", "Likes rooibos tea in the evening", turn_id="turn:3", chunk_id="chunk:3")
CANDIDATES = Candidates([LISBON, BERLIN, TEA])


def hit(row_id: str = "chunk:unknown", text: str = "", source: str = "memory_chunk") -> Hit:
    return Hit(row_id, text, source)


def test_a_chunk_or_turn_of_a_receipt_is_that_memory_whatever_its_text() -> None:
    assert Matched("m-lisbon", "receipt") == judge(hit("chunk:1", "something else"), CANDIDATES)
    assert Matched("m-berlin", "receipt") == judge(hit("turn:2", source="turn"), CANDIDATES)


def test_an_id_beats_an_equal_text() -> None:
    assert Matched("m-lisbon", "receipt") == judge(hit("chunk:1", "Lives in Berlin"), CANDIDATES)


def test_an_attribute_that_one_memory_made_is_that_memory() -> None:
    assert Matched("m-berlin", "receipt") == judge(hit("attr:2", "alice city Berlin", "attribute"), CANDIDATES)


def test_an_entity_that_several_memories_made_is_none_of_them() -> None:
    assert Ignored("entity that 2 memories share") == judge(hit("ent:a", "Alice (person)", "entity"), CANDIDATES)


def test_a_shared_row_is_the_memory_whose_words_it_shows() -> None:
    assert Matched("m-berlin", "receipt") == judge(hit("ent:a", "Alice: lives in Berlin", "entity"), CANDIDATES)


def test_text_decides_where_no_id_does_but_for_case_spaces_and_unicode_form() -> None:
    assert Matched("m-tea", "text") == judge(hit(text="  likes ROOIBOS tea\nin the evening "), CANDIDATES)
    cafe = Candidates([Known("m", "Meets at the café")])
    assert Matched("m", "text") == judge(hit(text="Meets at the cafe\u0301"), cafe)


def test_text_that_several_memories_have_names_them_all() -> None:
    twice = Candidates([Known("m2", "Likes tea"), Known("m1", "Likes tea")])
    assert Matched("m1", "text", also=frozenset({"m2"})) == judge(hit(text="Likes tea"), twice)


def test_nearly_the_same_text_is_similar() -> None:
    assert Matched("m-tea", "similar") == judge(hit(text="Likes rooibos tea in the evenings"), CANDIDATES)


def test_a_different_fact_in_the_same_words_is_not_similar() -> None:
    assert Unmatched() == judge(hit(text="Lives in Lima"), CANDIDATES)


def test_another_number_is_another_memory() -> None:
    invoices = Candidates([Known("m", "Invoice 1001 was paid by bank transfer")])
    assert Unmatched() == judge(hit(text="Invoice 1002 was paid by bank transfer"), invoices)


def test_a_text_as_near_to_two_memories_is_none_of_them() -> None:
    alike = Candidates(
        [Known("m1", "Plays chess every Monday night a"), Known("m2", "Plays chess every Monday night b")]
    )
    assert Ignored("text as near to 2 memories") == judge(hit(text="Plays chess every Monday night"), alike)


def test_a_passage_of_a_long_memory_is_that_memory() -> None:
    long = Candidates(
        [Known("m", "We started with one table of balances. " * 3 + "Then a retry ran twice on a slow night.")]
    )
    assert Matched("m", "similar") == judge(hit(text="balances. Then a retry ran twice on a slow night."), long)


def test_a_short_piece_is_no_passage() -> None:
    assert Unmatched() == judge(hit(text="rooibos"), CANDIDATES)


def test_rows_without_a_receipt_are_ignored_with_their_kind() -> None:
    assert Ignored("attribute that no receipt names") == judge(
        hit("attr:9", "alice city Oslo", "attribute"), CANDIDATES
    )
    assert Ignored("section, which is no memory") == judge(hit("s:1", "Chapter 1", "section"), CANDIDATES)


def test_text_of_none_of_the_candidates_is_unmatched() -> None:
    assert Unmatched() == judge(hit(text="The depot runs nineteen vans"), CANDIDATES)
    assert Unmatched() == judge(hit(text="anything"), Candidates([]))


def test_an_empty_text_matches_nothing_by_text() -> None:
    assert Unmatched() == judge(hit(text=""), CANDIDATES)


def test_an_answer_is_ranked_with_every_memory_once() -> None:
    hits = [hit("chunk:2"), hit("attr:2", "alice city Berlin", "attribute"), hit(text="elsewhere"), hit("chunk:1")]
    ranked, verdicts = judge_all(hits, CANDIDATES)
    assert ["m-berlin", "m-lisbon"] == ranked
    assert [Matched, Matched, Unmatched, Matched] == [type(verdict) for verdict in verdicts]


def test_two_hits_of_a_text_that_two_memories_have_are_both_of_them() -> None:
    twice = Candidates([Known("m1", "Likes tea"), Known("m2", "Likes tea")])
    ranked, _ = judge_all([hit("x", "Likes tea"), hit("y", "Likes tea"), hit("z", "Likes tea")], twice)
    assert ["m1", "m2"] == ranked


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_every_memory_is_found_by_its_own_text(texts: list[str]) -> None:
    known = [Known(f"m{index}", text) for index, text in enumerate(texts)]
    for memory in known:
        verdict = judge(hit(text=memory.text), Candidates(known))
        assert isinstance(verdict, Matched)
        assert memory.mem0_id in {verdict.mem0_id, *verdict.also}
        assert "text" == verdict.by


@given(st.text())
def test_plain_text_is_plain_already(text: str) -> None:
    assert plain(text) == plain(plain(text))
