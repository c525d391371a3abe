"""After `replay --adopt`, keys that the lost ledger has used and the server still knows, among equal texts."""

from __future__ import annotations

import json
import random
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.records import Memory, format_time
from tests.support.copies import copy_state
from tests.support.here import server_here
from tests.support.oracle import Turn, ledger_facts, server_turns
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, NONE, TODAY, complete_scan, mapping_file
from tests.support.spectron import replay
from tests.verify.support import verify

pytestmark = pytest.mark.slow

ADOPT = ReplayOptions(adopt=True)
A_DAY_S = 25 * 3600.0
FULL = ""
_days, _numbers = iter(range(1, 10**9)), iter(range(10**9))
CITIES = ("Ulm", "Rome", "Oslo")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a generation whose hits name their session, and whose clock may be moved."""
    folder = tmp_path_factory.mktemp("server")
    with server_here(folder, context="tests", api="0.3.0", fault_settings={}) as server:
        yield server


def rows_of(user: str, texts: list[str], runs: list[str | None] | None = None) -> list[Memory]:
    """Memories of a user, oldest first."""
    rows = []
    for number, text in enumerate(texts):
        at = format_time(TODAY - timedelta(days=400) + timedelta(hours=number))
        run = runs[number] if runs else None
        rows.append(
            Memory(
                id=f"{user}-{number:03d}",
                memory=text,
                user_id=user,
                run_id=run,
                created_at=at,
                text_at=at,
                text_at_source="created_at",
            )
        )
    return rows


def of_user(server: RunningServer, user: str) -> list[Turn]:
    """Turns of a user, in the order they arrived."""
    return sorted(
        (turn for turn in server_turns(server.database) if f"user/{user}" in turn.paths), key=lambda one: one.arrived
    )


@dataclass
class Lost:
    """A ledger that wrote some of the memories, and was lost."""

    server: RunningServer
    folder: Path
    user: str
    mapping: Path

    def write(self, *dumps: list[Memory]) -> None:
        """One run after the other, each of a dump of its own."""
        for number, rows in enumerate(dumps):
            scan = complete_scan(self.folder / f"first{number}", rows, TODAY - timedelta(hours=24))
            done = replay(self.server, self.folder / "lost", [scan], mapping=self.mapping)
            assert ExitCode.DONE == done.exit_code

    def check(self, state: Path, rows: list[Memory]) -> None:
        """Each memory is there once, each turn is one's, and what superseded last is the newest text."""
        turns = of_user(self.server, self.user)
        assert Counter(row.memory for row in rows) == Counter(turn.text for turn in turns)
        facts = [fact for fact in ledger_facts(state) if not fact["mem0_id"].startswith("turn:")]
        assert {"written", "stored_not_extracted"} >= {fact["state"] for fact in facts}
        assert len(rows) == len({fact["turn_id"] for fact in facts})
        by_id = {turn.id: turn for turn in turns}
        assert all(fact["text"] == by_id[fact["turn_id"]].text for fact in facts)
        lost = [fact for fact in ledger_facts(self.folder / "lost") if fact["turn_id"]]
        own = [fact for fact in facts if fact["decided_by"] in ("answer", "turns")]
        landed = {fact["turn_id"] for fact in facts if fact["decided_by"] == "adopted by key"}
        landed -= {fact["turn_id"] for fact in lost}
        own += [fact for fact in facts if fact["turn_id"] in landed]
        superseding = {fact["turn_id"] for fact in lost + own if fact["infer"] == "full"}
        texts = [turn.text for turn in turns if turn.id in superseding]
        if texts:
            assert rows[-1].memory == texts[-1], [(turn.text, turn.id in superseding) for turn in turns]


def test_the_newest_of_equal_texts_whose_key_the_server_knows_is_there_once(
    server: RunningServer, tmp_path: Path
) -> None:
    """The lost ledger wrote the newest; the older one with the same text was not in its dump."""
    rows = rows_of("anna", ["Likes tea", "Likes go", "Likes tea"])
    lost = Lost(server, tmp_path, "anna", mapping_file(tmp_path, FULL))
    lost.write(rows[2:])
    dump = complete_scan(tmp_path / "dump", rows, TODAY)

    done = replay(server, tmp_path / "state", [dump], mapping=lost.mapping, options=ADOPT)

    assert (ExitCode.DONE, 0) == (done.exit_code, done.refused), done.reasons
    lost.check(tmp_path / "state", rows)


def test_an_older_text_that_is_written_first_does_not_stay_over_the_newest(
    server: RunningServer, tmp_path: Path
) -> None:
    """Rome is older than the newest Ulm, and was not there: it is written, and the newest must come after it."""
    rows = rows_of("ben", ["Lives in Ulm", "Lives in Rome", "Lives in Ulm"])
    lost = Lost(server, tmp_path, "ben", mapping_file(tmp_path, FULL))
    lost.write(rows[2:])
    dump = complete_scan(tmp_path / "dump", rows, TODAY)

    done = replay(server, tmp_path / "state", [dump], mapping=lost.mapping, options=ADOPT)

    assert (ExitCode.DONE, 0) == (done.exit_code, done.refused), done.reasons
    lost.check(tmp_path / "state", rows)
    assert "GO" == verify(server, tmp_path / "state", [dump], mapping=lost.mapping).verdict


@pytest.mark.parametrize("lines", [FULL, NONE], ids=["full", "none"])
def test_a_write_of_the_lost_ledger_that_lands_after_the_search_is_the_receipt(
    server: RunningServer, tmp_path: Path, lines: str
) -> None:
    user = f"carl{len(lines)}"
    rows = rows_of(user, ["Likes tea", "Likes go", "Likes tea"])
    lost = Lost(server, tmp_path, user, mapping_file(tmp_path, lines))
    scan = complete_scan(tmp_path / "dump", rows, TODAY - timedelta(hours=1))
    replay(server, tmp_path / "lost", [scan], mapping=lost.mapping, options=ReplayOptions(limit=2))
    planned = next(fact for fact in ledger_facts(tmp_path / "lost") if fact["state"] == "planned")
    session = next(turn.session for turn in of_user(server, user))
    body = {"text": "Likes tea", "scopes": [[f"user/{user}"]], "session_id": session, "infer": planned["infer"]}

    def land(seen: Seen) -> Fault:
        if seen.method == "POST" and seen.path.endswith("/sessions") and len(of_user(server, user)) == 2:
            post(server, "facts", body, planned["key"])
        return "none"

    with misbehaving(server.base_url, land) as proxy:
        done = replay(server, tmp_path / "state", [scan], endpoint=proxy.base_url, mapping=lost.mapping, options=ADOPT)

    assert (ExitCode.DONE, 0) == (done.exit_code, done.refused), done.reasons
    lost.check(tmp_path / "state", rows)


def post(server: RunningServer, path: str, body: dict[str, Any], key: str) -> None:
    """A write of a process that nobody waits for any more."""
    url = f"{server.base_url}/api/v1/{server.context}/{path}"
    headers = {
        "Authorization": f"Bearer {server.api_key}",
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert 200 == answer.status


def test_a_key_of_which_no_turn_is_there_is_refused_and_named(server: RunningServer, tmp_path: Path) -> None:
    """The server knows the key of something it refused: nothing has this text."""
    rows = rows_of("dora", ["Likes tea", "Likes go"])
    lost = Lost(server, tmp_path, "dora", mapping_file(tmp_path, FULL))
    lost.write(rows[:1])

    def choose(seen: Seen) -> Fault:
        is_it = seen.writes_fact and b"go" in seen.body
        return refusing(409, "this Idempotency-Key was used with a different body") if is_it else "none"

    dump = complete_scan(tmp_path / "dump", rows, TODAY)
    with misbehaving(server.base_url, choose) as proxy:
        done = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, mapping=lost.mapping, options=ADOPT)

    assert (ExitCode.REFUSED, 1) == (done.exit_code, done.refused)
    assert ["dora-001"] == [each["id"] for each in done.reasons]
    again = replay(server, tmp_path / "state", [dump], mapping=lost.mapping, options=ReplayOptions(retry_failed=True))
    assert ExitCode.DONE == again.exit_code
    lost.check(tmp_path / "state", rows)


@pytest.mark.parametrize("texts", [["Likes tea", "Likes tea"], ["Likes go", "Likes tea"]], ids=["copy", "other text"])
@pytest.mark.parametrize("day", [False, True], ids=["within a day", "later"])
def test_a_turn_that_an_adoption_kept_for_nothing_is_that_of_a_memory_that_comes_later(
    server: RunningServer, tmp_path: Path, texts: list[str], day: bool
) -> None:
    user = f"fred{len(set(texts))}{int(day)}"
    rows = rows_of(user, texts)
    lost = Lost(server, tmp_path, user, mapping_file(tmp_path, FULL))
    lost.write(rows)
    first = complete_scan(tmp_path / "first", rows[1:], TODAY + timedelta(hours=1))
    replay(server, tmp_path / "state", [first], mapping=lost.mapping, options=ADOPT)
    if day:
        server.change_faults(ahead_s=A_DAY_S * next(_days))

    dump = complete_scan(tmp_path / "dump", rows, TODAY + timedelta(hours=2))
    done = replay(server, tmp_path / "state", [dump], mapping=lost.mapping)

    assert (ExitCode.DONE, 0) == (done.exit_code, done.refused), done.reasons
    lost.check(tmp_path / "state", rows)
    assert "GO" == verify(server, tmp_path / "state", [dump], mapping=lost.mapping).verdict


@pytest.mark.parametrize("answered", [1, 2])
def test_a_run_that_is_killed_while_it_gives_keys_goes_on(server: RunningServer, tmp_path: Path, answered: int) -> None:
    user = f"emil{answered}"
    rows = rows_of(user, ["Likes tea"] * 4)
    lost = Lost(server, tmp_path, user, mapping_file(tmp_path, FULL))
    lost.write(rows[1:])
    dump = complete_scan(tmp_path / "dump", rows, TODAY)
    writes, copied = 0, False

    def choose(seen: Seen) -> Fault:
        nonlocal writes, copied
        writes += seen.writes_fact
        if writes > answered:
            if not copied:
                copy_state(tmp_path / "state", tmp_path / "killed")
            copied = True
            return refusing(401, "no")
        return "none"

    with misbehaving(server.base_url, choose) as proxy:
        replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, mapping=lost.mapping, options=ADOPT)

    done = replay(server, tmp_path / "killed", [dump], mapping=lost.mapping)
    assert (ExitCode.DONE, 0) == (done.exit_code, done.refused), done.reasons
    lost.check(tmp_path / "killed", rows)


@pytest.mark.parametrize("lines", [FULL, NONE, BATCH], ids=["full", "none", "batch"])
@settings(max_examples=8, deadline=None, phases=(Phase.generate,))
@given(seed=st.integers(0, 10**9))
def test_whatever_the_lost_ledger_wrote_each_memory_is_there_once_and_the_newest_stands(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory, lines: str, seed: int
) -> None:
    dice, user = random.Random(seed), f"user{next(_numbers)}"
    folder = tmp_path_factory.mktemp("play")
    mapping = mapping_file(folder, lines + f"session: {{by: run_id, size: {dice.choice([2, 3, 100])}}}\n")
    count = dice.randint(2, 9)
    texts = [f"Lives in {dice.choice(CITIES)}" for _ in range(count)]
    rows = rows_of(user, texts, [dice.choice([None, "r1"]) for _ in range(count)])
    lost = Lost(server, folder, user, mapping)
    samples = [dice.sample(rows, k=dice.randint(1, count)) for _ in range(dice.randint(1, 3))]
    lost.write(*(sorted(sample, key=lambda row: row.id) for sample in samples))
    if dice.random() < 0.3:
        server.change_faults(ahead_s=A_DAY_S * next(_days))
    # The first dump may lack memories that the lost ledger wrote. With extraction that says that they are gone.
    sent = {row.id for sample in samples for row in sample} if lines == FULL else set()
    known = [row for row in rows if row is rows[-1] or row.id in sent or dice.random() < 0.7]
    dump = complete_scan(folder / "dump", known, TODAY + timedelta(hours=1))

    done = replay(server, folder / "state", [dump], mapping=mapping, options=ADOPT)

    assert (ExitCode.DONE, len(known)) == (done.exit_code, done.already + done.written), done.reasons
    if known != rows:
        later = complete_scan(folder / "dump", rows, TODAY + timedelta(hours=2))
        done = replay(server, folder / "state", [later], mapping=mapping)
        assert (ExitCode.DONE, len(rows)) == (done.exit_code, done.already + done.written), done.reasons
        dump = later
    lost.check(folder / "state", rows)
    assert 0 == replay(server, folder / "state", [dump], mapping=mapping).written
