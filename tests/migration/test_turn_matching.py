"""Which turn is whose, where texts are equal: what is sent afterwards must not leave an older text on top."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.ledger.read.adoption import SoughtFact
from spectron_migrate.migration.turn_matching import ListedTurn, match_turns
from spectron_migrate.spectron.rows import Turn


def fact(number: int, text: str, run: str | None = None, infer: str = "full") -> SoughtFact:
    """The `number`-th memory by its order key."""
    key = f"{number:06d}"
    return SoughtFact(number, f"m{number}", text, None, "user", 1, 1, run, infer, key, "planned", None, False)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sent:
    """A turn as its writer knew it."""

    fact: SoughtFact
    infer: str
    listed: ListedTurn


def listed(at: int, session: str, text: str) -> ListedTurn:
    return ListedTurn(session, Turn(f"turn{at}", text, at, "user", f"2026-05-01T00:00:00.{at:06d}Z"))


def send(there: list[Sent], facts: list[SoughtFact], *, most: int) -> None:
    """What a replay does: full facts above the high-water rise, those below it are late and sent without extraction."""
    done = {sent.fact.id for sent in there}
    high = max((sent.fact.order_key for sent in there if sent.infer == "full"), default="")
    for each in [one for one in sorted(facts, key=lambda one: one.order_key) if one.id not in done][:most]:
        infer = "full" if each.order_key > high else "none"
        session = f"{each.run} {infer} {len(there) // 7}"
        there.append(Sent(each, infer, listed(len(there), session, each.text)))


@given(seed=st.integers(0, 10**9))
def test_after_an_adoption_the_newest_text_is_the_last_that_supersedes(seed: int) -> None:
    dice = random.Random(seed)
    facts = [fact(n, dice.choice("ABCD"), dice.choice([None, "r1"])) for n in range(dice.randint(1, 30))]
    there: list[Sent] = []
    for _ in range(dice.randint(1, 4)):  # runs of the lost ledger; each knew some of the memories
        send(there, dice.sample(facts, k=dice.randint(1, len(facts))), most=dice.randint(1, 30))

    sent_to = {sent.fact.id: sent.listed.session for sent in there if dice.random() < 0.3}  # in doubt in a copy
    facts = [replace(one, sent_to=sent_to.get(one.id)) for one in facts]
    matching = match_turns([sent.listed for sent in there], facts)

    assert [] == matching.leftovers
    assert len(there) == len(matching.matches)
    assert {1} == set(Counter(match.fact.id for match in matching.matches).values())
    adopted = [Sent(match.fact, "none" if match.late else "full", match.listed) for match in matching.matches]
    by_adopter = list(adopted)
    send(by_adopter, facts, most=len(facts))
    sent_with_extraction = [sent.fact.text for sent in there if sent.infer == "full"]
    sent_with_extraction += [sent.fact.text for sent in by_adopter[len(adopted) :] if sent.infer == "full"]
    assert facts[-1].text == sent_with_extraction[-1]


def test_the_newer_of_two_equal_texts_is_sent_again_where_one_of_them_is_there() -> None:
    facts = [fact(1, "Lives in Ulm", "a"), fact(2, "Likes tea", "b"), fact(3, "Lives in Ulm", "b")]
    turns = [listed(0, "s", "Lives in Ulm"), listed(1, "s", "Likes tea")]

    matching = match_turns(turns, facts)

    assert [1, 2] == [match.fact.id for match in matching.matches]
    assert not any(match.late for match in matching.matches)


def test_a_fact_in_doubt_has_the_turn_of_its_own_session_before_an_older_one_with_the_same_text() -> None:
    facts = [fact(1, "Likes tea"), replace(fact(2, "Likes tea"), state="intended", sent_to="own")]

    assert [2, 1] == matched_facts([listed(0, "own", "Likes tea"), listed(1, "other", "Likes tea")], facts)
    assert [1, 2] == matched_facts([listed(0, "one", "Likes tea"), listed(1, "other", "Likes tea")], facts)
    assert [2] == matched_facts([listed(0, "own", "Likes tea")], facts)
    assert [1] == matched_facts([listed(0, "other", "Likes tea")], facts)


def matched_facts(turns: list[ListedTurn], facts: list[SoughtFact]) -> list[int]:
    """The facts of the turns, in the order of these."""
    return [match.fact.id for match in match_turns(turns, facts).matches]


def test_many_equal_texts_are_matched_in_little_time() -> None:
    facts = [fact(number, "ok") for number in range(6_000)]
    turns = [listed(at, f"s{at // 100}", "ok") for at in range(4_000)]

    matching = match_turns(turns, facts)

    assert [one.id for one in facts[:4_000]] == [match.fact.id for match in matching.matches]
