"""Writes in doubt in a session that the server no longer knows: they go on in a new one, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from tests.support.ledgers import facts_of
from tests.support.oracle import ledger_facts
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, NONE, expected_texts, killed, mapping_file, replay_in_no_time, texts
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow

MODES = {"full": "infer: full\n", "none": NONE, "batch": BATCH}
COUNT = 12
SOME = ReplayOptions(limit=4)
"""So that the session has other facts before those of a batch."""


class Ending:
    """The session of the sixth memory ends at that memory's first write, which has a fault."""

    def __init__(self, fault: Fault, status: int, *, answers_known_keys: bool, ends: int = 1) -> None:
        self.fault, self.status, self.answers_known_keys, self.ends = fault, status, answers_known_keys, ends
        self.ended: set[str] = set()
        self.known: set[str] = set()
        self.waits = 0.0

    def __call__(self, seen: Seen) -> Fault:
        if "/turns" in seen.path:
            return refusing(404, "no such session") if seen.path.split("/")[-2] in self.ended else "none"
        if not seen.path.endswith(("/facts", "/facts/batch")):
            return "none"
        session, key = json.loads(seen.body)["session_id"], seen.headers["idempotency-key"]
        if b"number 5" in seen.body and len(self.ended) < self.ends and session not in self.ended:
            self.ended.add(session)
            if "after" in str(self.fault):
                self.known.add(key)
            return self.fault
        if session in self.ended and not (self.answers_known_keys and key in self.known):
            return refusing(self.status, "the session does not exist or is out of reach")
        return "none"


def replayed(server: RunningServer, user: str, folder: Path, mode: str, ending: Ending) -> ReplaySummary:
    dump = write_raw(folder / "all.json", [memory(number, user) for number in range(COUNT)])

    def waited(moment: float) -> None:
        ending.waits = moment

    with misbehaving(server.base_url, ending) as proxy:
        return replay_in_no_time(
            server,
            folder / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(folder, MODES[mode]),
            waited=waited,
        )


@pytest.mark.parametrize("status", [404, 403])
@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "500_before", "500_after"])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_in_doubt_when_its_session_ends_is_stored_once(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, fault: str, status: int
) -> None:
    ending = Ending(fault, status, answers_known_keys=True)
    summary = replayed(spectron, user, tmp_path, mode, ending)
    assert ExitCode.DONE == summary.exit_code
    assert 0 == summary.in_doubt + summary.undecidable + summary.remaining
    assert expected_texts(user, COUNT) == texts(spectron, user)
    assert 20.0 <= ending.waits, "a request that may still arrive is waited for"


@pytest.mark.parametrize("mode", MODES)
def test_what_was_stored_in_a_session_that_answers_nothing_more_is_named_and_not_stored_twice(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str
) -> None:
    """In the new session its key meets 409: it was used with the body of the old one."""
    summary = replayed(spectron, user, tmp_path, mode, Ending("cut_after", 404, answers_known_keys=False))
    stored = texts(spectron, user)
    assert sorted(expected_texts(user, COUNT)) == sorted(stored)
    if mode == "batch":
        return
    assert ExitCode.REFUSED == summary.exit_code
    (named,) = (fact for fact in ledger_facts(tmp_path / "state") if fact["state"] == "refused")
    assert f"{user}-0005" == named["mem0_id"]


@pytest.mark.parametrize("mode", ["full", "none"])
def test_a_server_that_ends_every_session_it_is_in_doubt_about_does_not_keep_a_run_for_ever(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str
) -> None:
    ending = Ending("cut_before", 404, answers_known_keys=True, ends=99)
    summary = replayed(spectron, user, tmp_path, mode, ending)
    assert ExitCode.DONE != summary.exit_code
    assert 6 > len(ending.ended)
    stored = texts(spectron, user)
    assert len(set(stored)) == len(stored)


@pytest.mark.parametrize("words", ["session s_1 is closed", "conflict: the session has already ended"])
@pytest.mark.parametrize("mode", MODES)
def test_a_session_that_is_closed_to_writes_with_a_409_goes_on_in_a_new_one(
    spectron: RunningServer, user: str, tmp_path: Path, mode: str, words: str
) -> None:
    """Its turns can still be listed; other words of 409 say that a request is being processed."""
    closed: set[str] = set()

    def choose(seen: Seen) -> Fault:
        if not seen.writes_fact:
            return "none"
        session = json.loads(seen.body)["session_id"]
        if b"number 5" in seen.body and not closed:
            closed.add(session)
        return refusing(409, words) if session in closed else "none"

    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(COUNT)])
    mapping = mapping_file(tmp_path, MODES[mode])
    with misbehaving(spectron.base_url, choose) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping, options=SOME
        )
        summary = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    assert ExitCode.DONE == summary.exit_code
    assert sorted(expected_texts(user, COUNT)) == sorted(texts(spectron, user))


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_what_a_killed_run_left_in_doubt_in_a_session_that_ended_since_goes_on_in_a_new_one(
    spectron: RunningServer, user: str, tmp_path: Path, fault: str
) -> None:
    other = f"{user}b"
    dump = write_raw(tmp_path / "all.json", [memory(0, other), *(memory(number, user) for number in range(COUNT))])
    killed(spectron, tmp_path, dump, fault, lambda seen: f"{user} remembers thing number 9".encode() in seen.body)
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        (session,) = (fact["server_id"] for fact in facts_of(ledger, "version.mem0_id = ?", f"{user}-0009"))

    def ended(seen: Seen) -> Fault:
        if "/turns" in seen.path:
            return refusing(404, "no such session") if session in seen.path else "none"
        of_session = seen.path.endswith("/facts") and session.encode() in seen.body
        # A receipt that was not yet on disk at the kill leaves a memory before it in doubt too.
        is_stored = any(
            f'number {number}"'.encode() in seen.body for number in range(10 if fault == "cut_after" else 9)
        )
        return refusing(404, "unknown session") if of_session and not is_stored else "none"

    with misbehaving(spectron.base_url, ended) as proxy:
        summary = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert ExitCode.DONE == summary.exit_code
    assert 0 == summary.remaining + summary.in_doubt
    assert expected_texts(user, COUNT) == texts(spectron, user)
