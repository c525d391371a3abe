"""What processes share is kept in the same way in a directory and in Postgres."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from spectron_migrate.state.following import FOLLOW_LOCK, is_followed
from spectron_migrate.state.journal import (
    FILE,
    CaughtUp,
    JournalTruncated,
    StepConflict,
    publish_routing,
    read_journal,
    record_step,
)
from spectron_migrate.state.late_writes import LateWrites, keep_late_writes, last_late_writes
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import Routing, name_of, read_routing, write_routing
from spectron_migrate.state.store import StateStore, read_object, write_object
from spectron_migrate.state.uncertain import Uncertainties, keep_uncertainties, last_uncertainties
from tests.state.steps import AT, MIGRATION, step

Another = Callable[[], StateStore]


START = step("start", migration=MIGRATION)


def routing_in(store: StateStore) -> Routing:
    routing = read_routing(store)
    assert routing is not None
    return routing


def test_a_document_is_replaced_as_a_whole_and_removed(another: Another) -> None:
    one, two = another(), another()
    assert one.read("a.json") is None
    one.write("a.json", b"\x00\xff first")
    two.write("a.json", b"second", durable=True, public=True)
    assert b"second" == one.read("a.json")
    two.remove("a.json")
    two.remove("a.json")
    assert one.read("a.json") is None


def test_an_object_that_cannot_be_read_is_none(store: StateStore) -> None:
    assert read_object(store, "a.json") is None
    write_object(store, "a.json", {"text": "Zoë 🦊\x00"})
    assert {"text": "Zoë 🦊\x00"} == read_object(store, "a.json")
    store.write("a.json", b"[1")
    assert read_object(store, "a.json") is None


def test_a_lock_keeps_everybody_else_out_until_it_is_released(another: Another) -> None:
    one, two = another(), another()
    held = one.try_lock(FOLLOW_LOCK)
    assert held is not None
    assert two.try_lock(FOLLOW_LOCK) is None
    assert one.try_lock(FOLLOW_LOCK) is None
    assert is_followed(two)
    assert "process " in two.holder_of(FOLLOW_LOCK)
    free = two.try_lock("round.lock")
    assert free is not None
    held.close()
    held.close()
    assert not is_followed(two)
    with two.lock(FOLLOW_LOCK):
        assert is_followed(one)


def test_steps_are_read_by_every_process_and_give_the_routing(another: Another) -> None:
    one, two = another(), another()
    record_step(one, START)
    record_step(two, step("shift", percent=25.5))
    state = record_step(one, step("pin", spectron=("alice",)), decided_in=read_journal(two).state)
    assert state == read_journal(two).state
    assert 3 == state.epoch
    routing = routing_in(two)
    assert (3, 25.5) == (routing.epoch, routing.percent)
    assert frozenset({name_of(MIGRATION, "alice")}) == routing.pinned_to_spectron
    assert state.altered is None


def test_of_steps_decided_in_the_same_state_one_is_recorded(another: Another) -> None:
    state = record_step(another(), START)

    def shift(percent: int) -> bool:
        try:
            record_step(another(), step("shift", percent=percent), decided_in=state)
        except StepConflict:
            return False
        return True

    with ThreadPoolExecutor(5) as threads:
        assert 1 == sum(threads.map(shift, range(1, 6)))
    journal = read_journal(another())
    assert 2 == len(journal.steps)
    assert journal.state.altered is None


def test_a_line_is_appended_only_after_the_lines_that_were_read(store: StateStore) -> None:
    assert not store.has_journal(FILE)
    assert store.append_line(FILE, b"one\n", after=[])
    assert store.append_line(FILE, b"two\n", after=[b"one\n"])
    assert [b"one\n", b"two\n"] == store.lines(FILE)
    assert store.has_journal(FILE)


def test_how_far_spectron_has_caught_up_is_published_beside_the_steps(another: Another) -> None:
    one, two = another(), another()
    assert publish_routing(one, CaughtUp(AT, 5.0, frozenset()), now=AT) is None
    record_step(one, START)
    publish_routing(two, CaughtUp(AT, 5.0, frozenset({"bob"})), now=AT)
    record_step(one, step("shift", percent=10))
    routing = routing_in(two)
    assert (2, AT, 5.0) == (routing.epoch, routing.as_of, routing.fresh_until)
    assert frozenset({name_of(MIGRATION, "bob")}) == routing.behind


def test_a_routing_ahead_of_the_journal_admits_only_steps_back(store: StateStore) -> None:
    record_step(store, START)
    write_routing(store, replace(routing_in(store), epoch=9, percent=50))
    with pytest.raises(JournalTruncated, match="last lines are missing"):
        record_step(store, step("shift", percent=60))
    assert 10 == record_step(store, step("revert")).epoch
    assert 0 == routing_in(store).percent


def test_what_was_found_last_is_remembered(another: Another) -> None:
    one, two = another(), another()
    late, unsure = LateWrites(AT, 9, 2, ("a", "b"), 1), Uncertainties(AT, known=True, count=2, by_user={"ann": 2})
    assert last_late_writes(two) is None
    assert last_uncertainties(two) is None
    keep_late_writes(one, late)
    keep_uncertainties(one, unsure)
    assert late == last_late_writes(two)
    assert unsure == last_uncertainties(two)


def test_names_are_those_of_files(store: StateStore) -> None:
    assert FILE in store.describe(FILE)
    assert ROUTING_FILE in store.describe(ROUTING_FILE)


def test_a_version_changes_with_a_document_and_with_a_journal(another: Another) -> None:
    one, two = another(), another()
    seen = [two.version("a.json")]
    for data in (b"1", b"22", b"333"):
        one.write("a.json", data)
        seen.append(two.version("a.json"))
    assert 4 == len(set(seen))
    assert two.version("a.json") == two.version("a.json")
    assert two.version(FILE) is None
    record_step(one, START)
    began = two.version(FILE)
    record_step(one, step("revert"))
    assert two.version(FILE) not in (None, began)
