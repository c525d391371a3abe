"""A replay as a whole: decisions of a person, whose ledger it is, signals."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError, Interrupted, LedgerLocked, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.oracle import ledger_facts
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import NONE, forged, is_write, mapping_file, replay_in_no_time, texts, without_evidence
from tests.support.spectron import memory, replay, turns_of, write_raw


@pytest.mark.parametrize(("answer", "texts"), [("present", 2), ("absent", 3)])
def test_a_person_resolves_what_the_evidence_does_not_decide(
    spectron: RunningServer, user: str, tmp_path: Path, answer: Literal["present", "absent"], texts: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def cut_second(seen: Seen) -> Fault:
        return "cut_before" if b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, cut_second) as proxy:
        first = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert ExitCode.UNREACHABLE == first.exit_code
    assert 1 == first.written
    assert 1 == first.in_doubt
    assert 1 == first.remaining
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE fact SET state = 'undecidable', reason = 'for this test' WHERE state = 'intended'")
    held = replay(spectron, tmp_path / "state", [dump])
    assert ExitCode.REFUSED == held.exit_code
    assert 1 == held.undecidable
    assert 1 == held.remaining
    resolved = ReplayOptions(resolve={f"{user}-0001": answer})
    assert ExitCode.DONE == replay(spectron, tmp_path / "state", [dump], options=resolved).exit_code
    assert texts == len(turns_of(spectron, user))
    with pytest.raises(InputError, match="is not undecidable"):
        replay(spectron, tmp_path / "state", [dump], options=resolved)


def test_resolving_one_version_of_a_memory_does_not_decide_another(
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


def test_an_undecidable_earlier_text_exits_3(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_raw(tmp_path / "a.json", [memory(1, user, "likes tea")])
    gone = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00", expiration_date="2025-04-01")
    after = write_raw(tmp_path / "b.json", [gone])

    def other_session(seen: Seen, body: bytes) -> bytes | None:
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode() if is_write(seen) else None

    forged(monkeypatch, other_session)
    with misbehaving(spectron.base_url) as proxy:
        first = replay(spectron, tmp_path / "state", [before], endpoint=proxy.base_url)
    assert 1 == first.undecidable
    second = replay(spectron, tmp_path / "state", [after])
    assert ExitCode.REFUSED == second.exit_code


def test_a_ledger_of_another_source_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE migration SET source = 'oss:elsewhere'")
    with pytest.raises(WrongLedger, match="source oss:elsewhere, not files"):
        replay(spectron, tmp_path / "state", [dump])


def test_a_ledger_that_another_process_writes_is_locked_and_names_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with Ledger.open_for_writing(tmp_path / "state"), pytest.raises(LedgerLocked, match="written by process"):
        replay(spectron, tmp_path / "state", [dump])


def test_a_signal_does_not_wait_for_reads_before_the_first_write(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])

    async def run(endpoint: str) -> None:
        step: Replay

        async def sleep(_: float) -> None:
            step.interrupt(ExitCode.SIGTERM)
            await asyncio.Event().wait()  # a read that is tried again much later

        async with SpectronApi(endpoint, spectron.context, api_key=spectron.api_key, sleep=sleep) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    tmp_path / "state",
                    opened,
                    load_mapping(None),
                    ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                )
                await asyncio.wait_for(step.run(api), 5)

    with (
        misbehaving(spectron.base_url, lambda seen: "503") as proxy,
        pytest.raises(Interrupted, match="before anything was sent") as told,
    ):
        asyncio.run(run(proxy.base_url))
    assert ExitCode.SIGTERM == told.value.exit_code
