"""What a hostile reviewer tried on planning, delivery and erase, where it once gave way."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger import ledger as ledger_module
from spectron_migrate.ledger.read import plans
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Filters, NullReporter
from tests.delivery.playing import mapping_file, replay_in_no_time
from tests.delivery.test_edges_between_parts import erasing, texts
from tests.support.oracle import ledger_facts
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import verify

NONE = "infer: none\n"
BATCH = "infer: none\nwrite: batch\n"


def without_evidence(fault: str) -> Callable[[Seen], Fault]:
    """A write has this fault, and from then on the server knows no session."""
    written = False

    def choose(seen: Seen) -> Fault:
        nonlocal written
        if seen.writes_fact:
            written = True
            return fault
        return refusing(404, "no such session") if written and "/turns" in seen.path else "none"

    return choose


# -- a person's word ----------------------------------------------------------------------------------------


def test_a_persons_word_about_one_text_of_a_memory_does_not_decide_its_other_text(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """With `none` two texts of one memory may both be undecidable: the old one is there, the new one is not."""
    mapping, state = mapping_file(tmp_path, NONE), tmp_path / "state"

    row = memory(1, user)
    first = write_raw(tmp_path / "one.json", [row])
    with misbehaving(spectron.base_url, without_evidence("cut_after")) as proxy:
        replay_in_no_time(spectron, state, first, endpoint=proxy.base_url, mapping=mapping)
    newer = {**row, "memory": "a newer text", "updated_at": "2025-02-01T00:00:00+00:00"}
    second = write_raw(tmp_path / "two.json", [newer])
    with misbehaving(spectron.base_url, without_evidence("cut_before")) as proxy:
        done = replay_in_no_time(spectron, state, second, endpoint=proxy.base_url, mapping=mapping)
    assert 2 == done.undecidable
    with suppress(InputError):
        present = ReplayOptions(resolve={row["id"]: "present"})
        replay_in_no_time(spectron, state, second, mapping=mapping, options=present)
    said = {fact["version"]: fact["state"] for fact in ledger_facts(state)}
    assert "a newer text" in texts(spectron, user) or "written" != said[2]


# -- erase --------------------------------------------------------------------------------------------------


def test_a_scope_whose_batch_a_person_found_absent_can_be_erased(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    mapping, state = mapping_file(tmp_path, BATCH), tmp_path / "state"
    first = write_raw(tmp_path / "one.json", [memory(1, user)])
    replay_in_no_time(spectron, state, first, mapping=mapping)
    both = write_raw(tmp_path / "both.json", [memory(1, user), memory(2, user)])
    with misbehaving(spectron.base_url, without_evidence("cut_before")) as proxy:
        replay_in_no_time(spectron, state, both, endpoint=proxy.base_url, mapping=mapping)
    absent = ReplayOptions(resolve={f"{user}-0002": "absent"}, limit=0)
    replay_in_no_time(spectron, state, both, mapping=mapping, options=absent)
    erasing(spectron, state, f"user/{user}")
    done = replay_in_no_time(spectron, state, both, mapping=mapping)
    assert (ExitCode.DONE, 2) == (done.exit_code, len(texts(spectron, user)))


def test_what_was_refused_before_an_erase_holds_nothing_late_after_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def refuse_the_newest(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact and b"number 2" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_the_newest) as proxy:
        replay(spectron, state, [dump], endpoint=proxy.base_url)
    erasing(spectron, state, f"user/{user}")
    done = replay(spectron, state, [dump])
    assert (2, 0) == (done.written, done.late)


# -- what a server may answer -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", NONE, BATCH])
def test_a_turn_that_answers_name_twice_is_claimed_once_and_the_other_memory_is_named(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str
) -> None:
    """As from a server that takes equal texts of a session for one."""
    first: dict[str, str] = {}

    def name_the_first(seen: Seen, body: bytes) -> bytes | None:
        told = json.loads(body) if seen.writes_fact else {}
        if "turnIds" in told:
            return json.dumps({**told, "turnIds": told["turnIds"][:1] * len(told["turnIds"])}).encode()
        if "turnId" in told:
            return json.dumps({**told, "turnId": first.setdefault(told["sessionId"], told["turnId"])}).encode()
        return None

    dump = write_raw(tmp_path / "all.json", [memory(number, user, "the same") for number in range(3)])
    mapping = mapping_file(tmp_path, mode)
    with misbehaving(spectron.base_url) as proxy:
        proxy.change = name_the_first  # type: ignore[method-assign]
        for _ in range(2):
            done = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    claimed = [fact["turn_id"] for fact in ledger_facts(tmp_path / "state") if fact["turn_id"]]
    assert len(claimed) == len(set(claimed)) == done.already
    assert (done.exit_code == ExitCode.REFUSED) == (done.undecidable > 0)
    assert 3 == done.already + done.undecidable + done.remaining


# -- odd memories -------------------------------------------------------------------------------------------

HALF = "\ud83d"


@pytest.mark.parametrize(
    "odd",
    [
        {"run_id": f"r{HALF}"},
        {"actor_id": f"a{HALF}"},
        {"role": f"a{HALF}"},
        {"metadata": {"kind": f"x{HALF}", f"y{HALF}": 1}},
        {"created_at": f"2025-01-01T00:00:00{HALF}"},
        {"hash": HALF},
        {"categories": [HALF]},
        {"memory": "a\x00b"},
        {"id": "m\x00n"},
        {"user_id": "u\x00v"},
        {"agent_id": ""},
        {"expiration_date": f"2099-01-01{HALF}"},
        {"memory": "x" * 1_000_000},
    ],
)
@pytest.mark.parametrize("rule", ["", "labels: {kind: 'x'}\n"])
def test_no_odd_memory_keeps_the_others_from_being_written(
    spectron: RunningServer, user: str, tmp_path: Path, odd: dict[str, Any], rule: str
) -> None:
    odd = {name: f"{value}{user}" if name.endswith("id") and value else value for name, value in odd.items()}
    rows = [memory(1, user), {**memory(2, user), **odd}, memory(3, user)]
    dump = write_raw(tmp_path / "all.json", rows)
    done = replay(spectron, tmp_path / "state", [dump], mapping=mapping_file(tmp_path, rule))
    again = replay(spectron, tmp_path / "state", [dump], mapping=mapping_file(tmp_path, rule))
    assert {f"{user} remembers thing number {number}" for number in (1, 3)} <= set(texts(spectron, user))
    assert (3, 0) == (done.planned, again.written)


def test_an_id_with_half_a_letter_is_named_and_keeps_no_other_memory_from_being_written(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(1, user), {**memory(2, user), "id": f"m{HALF}"}, memory(3, user)]
    reporter = NullReporter()
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], reporter=reporter)
    assert {f"{user} remembers thing number {number}" for number in (1, 3)} == set(texts(spectron, user))
    assert any("half a letter" in said for said in reporter.warnings)


def test_a_text_that_no_server_takes_is_no_missing_memory(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [*(memory(number, user) for number in range(3)), memory(4, user, HALF)])
    replay(spectron, tmp_path / "state", [dump])
    found = verify(spectron, tmp_path / "state", [dump])
    assert ("GO", 1) == (found.verdict, found.to_json()["integrity"]["skipped"])


def test_half_a_letter_in_what_a_rule_reads_skips_that_memory_alone(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    path = tmp_path / "mapping.yaml"
    scope = "{user: '{user_id}', team: '{metadata.team}'}"
    path.write_text(f"version: 1\nrules:\n  - when: {{user_id: '*', metadata.team: '*'}}\n    scope: {scope}\n")
    rows = [memory(1, user, metadata={"team": "a"}), memory(2, user, metadata={"team": HALF})]
    done = replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], mapping=path)
    assert 2 == done.planned
    assert f"{user} remembers thing number 1" in texts(spectron, user)


def test_rows_of_raw_files_that_are_not_written_are_told(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    """Ids of small stores begin at 1 in each of them; and a page may be missing."""
    rows = [{**memory(1, f"{user}a"), "id": "1"}, {**memory(2, f"{user}b"), "id": "1"}, {**memory(3, user), "id": ""}]
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"count": 5, "next": None, "results": rows}))
    reporter = NullReporter()
    replay(spectron, tmp_path / "state", [path], reporter=reporter)
    said = "\n".join(reporter.warnings)
    assert "memory 1: older copy of the same id" in said
    assert "no id" in said
    assert "2 memories that the pages announce are missing" in said


def test_a_raw_listing_that_mem0_may_have_cut_off_is_told(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    reporter = NullReporter()
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    replay(spectron, tmp_path / "state", [dump], reporter=reporter)
    assert any("exactly 20 memories" in said for said in reporter.warnings)


# -- the disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 2, 4, 8])
def test_a_full_disk_is_said_and_costs_no_memory(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Wherever it is met: when planning, when intending, when keeping a receipt."""
    connect = ledger_module._connect

    def full(path: Path, *, read_only: bool) -> sqlite3.Connection:
        connection = connect(path, read_only=read_only)
        if path.name == "ledger.db" and not read_only:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + room}")
        return connection

    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(30)])
    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "_connect", full)
        with pytest.raises(InputError, match="cannot be written: database or disk is full"):
            replay_in_no_time(spectron, tmp_path / "state", dump)
    done = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert (ExitCode.DONE, 30) == (done.exit_code, len(set(texts(spectron, user))))
    assert 30 == len(texts(spectron, user))


# -- an edited mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["filter", "file"])
def test_a_changed_mapping_is_held_against_all_that_was_sent_not_only_what_this_run_is_about(
    spectron: RunningServer, user: str, tmp_path: Path, by: str
) -> None:
    """Else one user lies in the old mapping's scopes and another in the new one's, and no lens finds both."""
    one, other = f"{user}a", f"{user}b"
    rows = [memory(1, one), memory(2, other)]
    dump = write_raw(tmp_path / "all.json", rows)
    only = {name: ReplayOptions(filters=Filters(users=frozenset({name}))) for name in (one, other)}
    replay(spectron, tmp_path / "state", [dump], options=only[one], mapping=mapping_file(tmp_path, ""))
    changed = tmp_path / "changed.yaml"
    changed.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: acme, user: '{user_id}'}\n")
    second = dump if by == "filter" else write_raw(tmp_path / "other.json", rows[1:])
    options = only[other] if by == "filter" else ReplayOptions()
    with pytest.raises(InputError, match="moves 1 memory"):
        replay(spectron, tmp_path / "state", [second], options=options, mapping=changed)
    assert [] == texts(spectron, other)


# -- waiting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["/facts", "/sessions", "/scopes"])
@pytest.mark.parametrize(("most_s", "options"), [(1900.0, ReplayOptions()), (100.5, ReplayOptions(max_seconds=100.0))])
def test_a_server_that_asks_to_be_asked_tomorrow_is_not_waited_for_in_silence(
    spectron: RunningServer, user: str, tmp_path: Path, what: str, most_s: float, options: ReplayOptions
) -> None:
    waits = [0.0]

    def tomorrow(seen: Seen) -> Fault:
        return refusing(503, "later", "86400") if seen.method == "POST" and seen.path.endswith(what) else "none"

    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with misbehaving(spectron.base_url, tomorrow) as proxy:
        done = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, options=options, waited=waits.append
        )
    assert done.exit_code in (ExitCode.UNREACHABLE, ExitCode.LIMIT)
    assert waits[-1] <= most_s


def test_two_dry_runs_at_once_do_not_trip_over_each_other(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user)])])
    up_to_date = ledger_module._bring_up_to_date

    def meanwhile(connection: sqlite3.Connection) -> None:
        """Another process begins one."""
        with monkeypatch.context() as other:
            other.setattr(ledger_module, "_bring_up_to_date", up_to_date)
            other.setattr("os.getpid", lambda: 1)
            with Ledger.scratch_copy(tmp_path / "state"):
                up_to_date(connection)

    monkeypatch.setattr(ledger_module, "_bring_up_to_date", meanwhile)
    with Ledger.scratch_copy(tmp_path / "state") as copy:
        assert 1 == plans.count_by_state(copy, 1)["stored_not_extracted"]
    assert [] == list((tmp_path / "state").glob(".scratch-*"))
