"""`replay --adopt` with facts in doubt: a copy was taken while they were sent, and the original went on without it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory, format_time
from tests.support.copies import copy_state
from tests.support.here import server_here
from tests.support.oracle import Turn, ledger_facts, server_turns
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import TODAY, complete_scan, mapping_file, replay_in_no_time

pytestmark = pytest.mark.slow

FULL, FULL_IN_BATCHES = "", "write: batch\n"
A_DAY_S = 25 * 3600.0
LATER = pytest.mark.parametrize("day", [False, True], ids=["within a day", "later"])
_days = iter(range(1, 10**9))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose clock may be moved."""
    folder = tmp_path_factory.mktemp("server")
    with server_here(folder, context="tests", api="0.3.0", fault_settings={}) as server:
        yield server


def row(user: str, hour: int, text: str, run: str | None = None) -> Memory:
    """A memory that is so many hours younger than the oldest one."""
    at = format_time(TODAY - timedelta(days=400) + timedelta(hours=hour))
    name = f"{user}-{hour:03d}"
    return Memory(name, text, user, run_id=run, created_at=at, text_at=at, text_at_source="created_at")


def copied_at(
    server: RunningServer, folder: Path, rows: list[Memory], text: str, *, mapping: Path, refused: bool = False
) -> None:
    """A run during which the state is copied: at the first write with this text, which the server may refuse."""

    def choose(seen: Seen) -> Fault:
        if not seen.writes_fact or text.encode() not in seen.body:
            return "none"
        if not (folder / "copy").exists():
            copy_state(folder / "state", folder / "copy")
        return refusing(400, "no") if refused else "none"

    scan = complete_scan(folder / "first", rows, TODAY - timedelta(hours=24))
    with misbehaving(server.base_url, choose) as proxy:
        options = ReplayOptions(accept_expiry=True)
        done = replay_in_no_time(
            server, folder / "state", scan, endpoint=proxy.base_url, mapping=mapping, options=options
        )
    assert (ExitCode.REFUSED if refused else ExitCode.DONE) == done.exit_code


def adopt(server: RunningServer, folder: Path, rows: list[Memory], *, mapping: Path, supersede: bool = True) -> None:
    """The copy goes on in place of the original, and nothing is left for a person."""
    scan = complete_scan(folder / "dump", rows, TODAY)
    options = ReplayOptions(adopt=True, accept_expiry=True, supersede=supersede)
    done = replay_in_no_time(server, folder / "copy", scan, mapping=mapping, options=options)
    assert (ExitCode.DONE, 0, []) == (done.exit_code, done.refused, list(done.reasons))


def superseding(server: RunningServer, folder: Path, user: str) -> list[Turn]:
    """Turns of the user that were sent with extraction by either ledger, in the order they arrived."""
    sent = [
        fact
        for state in ("state", "copy")
        for fact in ledger_facts(folder / state)
        if fact["infer"] == "full" and fact["decided_by"] in ("answer", "turns")
    ]
    ids = {fact["turn_id"] for fact in sent}
    turns = [turn for turn in server_turns(server.database) if f"user/{user}" in turn.paths and turn.id in ids]
    return sorted(turns, key=lambda turn: turn.arrived)


def stored_texts(server: RunningServer, user: str) -> list[str]:
    """All texts of the user."""
    return sorted(turn.text for turn in server_turns(server.database) if f"user/{user}" in turn.paths)


@LATER
@pytest.mark.parametrize("lines", [FULL, FULL_IN_BATCHES], ids=["singly", "batch"])
def test_a_fact_in_doubt_that_the_other_ledger_did_not_store_supersedes_nothing_newer(
    server: RunningServer, tmp_path: Path, lines: str, day: bool
) -> None:
    user = f"anna{len(lines)}{int(day)}"
    mapping = mapping_file(tmp_path, f"{lines}session: {{by: run_id}}\n")
    rows = [row(user, 0, "Works at Acme"), row(user, 1, "Lives in Rome", "r1"), row(user, 2, "Lives in Ulm")]
    copied_at(server, tmp_path, rows, "Lives in Rome", mapping=mapping, refused=True)
    if day:
        server.change_faults(ahead_s=A_DAY_S * next(_days))

    adopt(server, tmp_path, rows, mapping=mapping)

    assert ["Lives in Rome", "Lives in Ulm", "Works at Acme"] == stored_texts(server, user)
    assert "Lives in Ulm" == superseding(server, tmp_path, user)[-1].text


@LATER
def test_once_applications_write_a_fact_in_doubt_supersedes_nothing(
    server: RunningServer, tmp_path: Path, day: bool
) -> None:
    user = f"dora{int(day)}"
    mapping = mapping_file(tmp_path, FULL)
    rows = [row(user, 0, "Works at Acme"), row(user, 1, "Lives in Rome"), row(user, 2, "Likes tea")]
    copied_at(server, tmp_path, rows[:2], "Lives in Rome", mapping=mapping, refused=True)
    if day:
        server.change_faults(ahead_s=A_DAY_S * next(_days))

    adopt(server, tmp_path, rows, mapping=mapping, supersede=False)

    assert ["Likes tea", "Lives in Rome", "Works at Acme"] == stored_texts(server, user)
    assert ["Works at Acme"] == [turn.text for turn in superseding(server, tmp_path, user)]


@LATER
def test_an_older_memory_does_not_take_the_turn_of_an_equal_text_in_doubt(
    server: RunningServer, tmp_path: Path, day: bool
) -> None:
    """Mem0 shows the older one only after the copy was taken."""
    user = f"ben{int(day)}"
    mapping = mapping_file(tmp_path, FULL)
    rows = [row(user, 1, "Works at Acme"), row(user, 2, "Likes tea"), row(user, 3, "Lives in Ulm")]
    copied_at(server, tmp_path, rows, "Likes tea", mapping=mapping)
    if day:
        server.change_faults(ahead_s=A_DAY_S * next(_days))

    adopt(server, tmp_path, [row(user, 0, "Likes tea"), *rows], mapping=mapping)

    assert ["Likes tea", "Likes tea", "Lives in Ulm", "Works at Acme"] == stored_texts(server, user)
    assert "Lives in Ulm" == superseding(server, tmp_path, user)[-1].text


@LATER
def test_the_newest_memory_in_doubt_keeps_its_turn_from_an_equal_older_one(
    server: RunningServer, tmp_path: Path, day: bool
) -> None:
    """Nothing is left for a person."""
    user = f"carl{int(day)}"
    mapping = mapping_file(tmp_path, FULL)
    rows = [row(user, 1, "Works at Acme"), row(user, 2, "Likes tea")]
    copied_at(server, tmp_path, rows, "Likes tea", mapping=mapping)
    if day:
        server.change_faults(ahead_s=A_DAY_S * next(_days))

    adopt(server, tmp_path, [row(user, 0, "Likes tea"), *rows], mapping=mapping)

    assert ["Likes tea", "Likes tea", "Works at Acme"] == stored_texts(server, user)
    assert "Likes tea" == superseding(server, tmp_path, user)[-1].text
