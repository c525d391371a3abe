"""However a text is split: its passages hold it, and a passage that is missing or changed is noticed."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import assume, given
from hypothesis import strategies as st

from spectron_migrate.records import Hit
from spectron_migrate.verify.passages import Passages, exact_form
from spectron_migrate.verify.stored_memory import StoredMemory

WORDS = st.text("abÅé日 \n", min_size=1, max_size=6)


def passages_of(text: str, pieces: list[str], *, of_others: frozenset[str] = frozenset()) -> Passages:
    """What is known when searches showed these passages, `chunk-0` the first."""
    fact = cast("StoredMemory", _Fact(text))
    found = Passages(fact, lambda hit_id: hit_id in of_others)
    found.add([Hit(f"chunk-{number}", piece, "memory_chunk", 1.0) for number, piece in enumerate(pieces)])
    return found


class _Fact:
    chunk_id = "chunk-0"

    def __init__(self, text: str) -> None:
        self.text = text


@st.composite
def split_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    pieces = draw(st.lists(WORDS, min_size=1, max_size=8).filter(lambda all_: all(map(str.strip, all_))))
    joints = draw(st.lists(st.sampled_from(["", " ", "\n\n"]), min_size=len(pieces), max_size=len(pieces)))
    text = "".join(piece + joint for piece, joint in zip(pieces, joints, strict=True))
    return text, pieces


@given(split_texts())
def test_the_pieces_of_a_text_cover_it_however_it_is_split(split: tuple[str, list[str]]) -> None:
    text, pieces = split
    found = passages_of(text, pieces)
    assert not found.first_is_wrong
    assert found.pieces()[1] is None


@given(split_texts(), st.data())
def test_a_letter_that_no_passage_holds_is_noticed(split: tuple[str, list[str]], data: Any) -> None:
    text, pieces = split
    lacking = data.draw(st.integers(0, len(pieces) - 1))
    changed = f"{pieces[lacking]}z"
    pieces = [piece for number, piece in enumerate(pieces) if number != lacking]
    assume(sum(len(exact_form(piece)) for piece in pieces) < len(exact_form(text).replace(" ", "")))
    assert passages_of(text, pieces).pieces()[1] is not None
    assert passages_of(text, [*pieces, changed]).pieces()[1] is not None


def test_the_first_passage_is_that_of_the_receipt() -> None:
    assert passages_of("one two three", ["two three", "one"]).first_is_wrong
    assert not passages_of("one two three", ["one", "two three"]).first_is_wrong


def test_equal_pieces_need_a_passage_each() -> None:
    text = "ab " * 6
    assert passages_of(text, ["ab ab", "ab ab", "ab ab"]).pieces()[1] is None
    assert 12 == passages_of(text, ["ab ab", "ab ab"]).pieces()[1]


def test_a_passage_of_another_memory_does_not_count() -> None:
    found = passages_of("one two three", ["one", "two three"], of_others=frozenset({"chunk-1"}))
    assert 4 == found.pieces()[1]


def test_passages_may_overlap() -> None:
    assert passages_of("one two three four", ["one two three", "two three four"]).pieces()[1] is None


def test_a_passage_that_is_like_the_piece_that_is_not_found_is_its_altered_form() -> None:
    found = passages_of("one two three, and four five six", ["one two three,", "and four never six", "seven eight"])
    assert 15 == found.pieces()[1]
    assert "and four never six" == found.altered(15)


def test_case_counts_and_white_space_and_unicode_form_do_not() -> None:
    assert passages_of("Ångström\n\nis fine", ["A\u030angstro\u0308m is", "fine"]).pieces()[1] is None
    assert 0 == passages_of("Angstrom is fine", ["Angstrom IS", "fine"]).pieces()[1]
