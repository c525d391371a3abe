"""Which memory a hit of Spectron's is: by the ledger's ids, then by text, never by score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.judge import (
    Ignored,
    KnownMemory,
    Matched,
    MemoryIndex,
    Unmatched,
    judge_by_name,
    judge_hit,
    plain,
)
from spectron_migrate.records import Hit

LISBON = KnownMemory(
    "m-lisbon", "Lives in Lisbon", turn_id="turn:1", chunk_id="chunk:1", ids=frozenset({"attr:1", "ent:a"})
)
BERLIN = KnownMemory(
    "m-berlin", "Lives in Berlin", turn_id="turn:2", chunk_id="chunk:2", ids=frozenset({"attr:2", "ent:a"})
)
TEA = KnownMemory("m-tea", "Likes rooibos tea in the evening", turn_id="turn:3", chunk_id="chunk:3")
INDEX = MemoryIndex([LISBON, BERLIN, TEA])


def hit(row_id: str = "chunk:unknown", text: str = "", source: str = "memory_chunk") -> Hit:
    return Hit(row_id, text, source)


def test_a_chunk_or_turn_of_a_receipt_is_that_memory_whatever_its_text() -> None:
    assert Matched("m-lisbon", "receipt") == judge_hit(hit("chunk:1", "something else"), INDEX)
    assert Matched("m-berlin", "receipt") == judge_hit(hit("turn:2", source="turn"), INDEX)


def of_turn(turn_id: str, text: str) -> Hit:
    return Hit("chunk:unknown", text, "memory_chunk", session_id="session:1", turn_id=turn_id)


def test_the_turn_that_a_hit_names_beats_its_id_and_its_text() -> None:
    assert Matched("m-tea", "turn") == judge_hit(of_turn("turn:3", "Lives in Berlin"), INDEX)


def test_an_equal_text_of_another_turn_is_not_the_memory() -> None:
    assert Unmatched() == judge_hit(of_turn("turn:9", "Lives in Berlin"), INDEX)
    without_turn = MemoryIndex([KnownMemory("m", "Lives in Berlin")])
    assert Matched("m", "text") == judge_hit(of_turn("turn:9", "Lives in Berlin"), without_turn)


def test_an_id_beats_an_equal_text() -> None:
    assert Matched("m-lisbon", "receipt") == judge_hit(hit("chunk:1", "Lives in Berlin"), INDEX)


def test_an_attribute_that_one_memory_made_is_that_memory() -> None:
    assert Matched("m-berlin", "receipt") == judge_hit(hit("attr:2", "alice city Berlin", "attribute"), INDEX)


def test_an_entity_that_several_memories_made_is_none_of_them() -> None:
    assert Ignored("entity that 2 memories share") == judge_hit(hit("ent:a", "Alice (person)", "entity"), INDEX)


def test_a_shared_row_is_the_memory_whose_words_it_shows() -> None:
    assert Matched("m-berlin", "receipt") == judge_hit(hit("ent:a", "Alice: lives in Berlin", "entity"), INDEX)


def test_text_decides_where_no_id_does_but_for_case_spaces_and_unicode_form() -> None:
    assert Matched("m-tea", "text") == judge_hit(hit(text="  likes ROOIBOS tea\nin the evening "), INDEX)
    cafe = MemoryIndex([KnownMemory("m", "Meets at the café")])
    assert Matched("m", "text") == judge_hit(hit(text="Meets at the cafe\u0301"), cafe)


def test_text_that_several_memories_have_names_them_all() -> None:
    twice = MemoryIndex([KnownMemory("m2", "Likes tea"), KnownMemory("m1", "Likes tea")])
    assert Matched("m1", "text", also=frozenset({"m2"})) == judge_hit(hit(text="Likes tea"), twice)


def test_nearly_the_same_text_is_similar() -> None:
    assert Matched("m-tea", "similar") == judge_hit(hit(text="Likes rooibos tea in the evenings"), INDEX)


def test_a_different_fact_in_the_same_words_is_not_similar() -> None:
    assert Unmatched() == judge_hit(hit(text="Lives in Lima"), INDEX)


def test_another_number_is_another_memory() -> None:
    invoices = MemoryIndex([KnownMemory("m", "Invoice 1001 was paid by bank transfer")])
    assert Unmatched() == judge_hit(hit(text="Invoice 1002 was paid by bank transfer"), invoices)


def test_a_text_as_near_to_two_memories_is_none_of_them() -> None:
    alike = MemoryIndex(
        [KnownMemory("m1", "Plays chess every Monday night a"), KnownMemory("m2", "Plays chess every Monday night b")]
    )
    assert Ignored("text as near to 2 memories") == judge_hit(hit(text="Plays chess every Monday night"), alike)


def test_a_passage_of_a_long_memory_is_that_memory() -> None:
    long = MemoryIndex(
        [KnownMemory("m", "We started with one table of balances. " * 3 + "Then a retry ran twice on a slow night.")]
    )
    assert Matched("m", "similar") == judge_hit(hit(text="balances. Then a retry ran twice on a slow night."), long)


def test_a_short_part_does_not_count_as_a_passage() -> None:
    assert Unmatched() == judge_hit(hit(text="rooibos"), INDEX)


def test_rows_without_a_receipt_are_ignored_with_their_kind() -> None:
    assert Ignored("attribute that no receipt names") == judge_hit(hit("attr:9", "alice city Oslo", "attribute"), INDEX)
    assert Ignored("section, which is not a memory") == judge_hit(hit("s:1", "Chapter 1", "section"), INDEX)


def test_text_of_no_memory_of_the_index_is_unmatched() -> None:
    assert Unmatched() == judge_hit(hit(text="The depot runs nineteen vans"), INDEX)
    assert Unmatched() == judge_hit(hit(text="anything"), MemoryIndex([]))


def test_an_empty_text_matches_nothing_by_text() -> None:
    assert Unmatched() == judge_hit(hit(text=""), INDEX)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_every_memory_is_found_by_its_own_text(texts: list[str]) -> None:
    known = [KnownMemory(f"m{index}", text) for index, text in enumerate(texts)]
    for memory in known:
        verdict = judge_hit(hit(text=memory.text), MemoryIndex(known))
        assert isinstance(verdict, Matched)
        assert memory.mem0_id in {verdict.mem0_id, *verdict.also}
        assert "text" == verdict.by


@given(st.text())
def test_plain_text_is_plain_already(text: str) -> None:
    assert plain(text) == plain(plain(text))


_IDS = st.sampled_from(["row:1", "row:2", "row:3"])
_TEXTS = st.sampled_from(["Likes tea", "likes TEA", "Likes teas", "Lives in Berlin"])
_KNOWN = st.builds(KnownMemory, st.uuids().map(str), _TEXTS, st.none() | _IDS, st.none() | _IDS, st.frozensets(_IDS))
_HITS = st.builds(Hit, _IDS, _TEXTS, st.sampled_from(["memory_chunk", "entity", "section"]), turn_id=st.none() | _IDS)


@given(st.lists(_KNOWN, max_size=6), _HITS)
def test_what_names_decide_depends_on_no_memory_that_is_not_named(known: list[KnownMemory], found: Hit) -> None:
    rows = {found.id, found.turn_id}
    named = [
        memory
        for memory in known
        if rows & {memory.turn_id or "", memory.chunk_id or "", *memory.ids} or plain(memory.text) == plain(found.text)
    ]
    by_name = judge_by_name(found, MemoryIndex(known))
    assert by_name == judge_by_name(found, MemoryIndex(named))
    assert by_name in (None, judge_hit(found, MemoryIndex(known)))
