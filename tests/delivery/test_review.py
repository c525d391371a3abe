"""The review file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, WrongLedger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.state.store import store_at
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import memory, replay, turns_of, write_raw


def review_of(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store_at(state).lines("review/refused.jsonl")]


def test_a_refused_memory_goes_to_review_with_the_servers_message_and_its_lane_goes_on(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    mapping = tmp_path / "mapping.yaml"
    # A label the server refuses: keys that begin with an underscore are its own.
    mapping.write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n")

    def refuse_second(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_second) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, mapping=mapping)
    assert ExitCode.REFUSED == summary.exit_code
    assert 2 == summary.written
    assert 1 == summary.refused
    assert store_at(tmp_path / "state").describe("review/refused.jsonl") == summary.review
    (row,) = review_of(tmp_path / "state")
    assert f"{user}-0001" == row["id"]
    assert "400 not this one" == row["reason"]
    assert "refused" == row["state"]
    assert f"{user} remembers thing number 1" == row["memory"]["memory"]

    again = replay(spectron, tmp_path / "state", [dump], mapping=mapping, options=ReplayOptions(retry_failed=True))
    assert ExitCode.DONE == again.exit_code
    assert 1 == again.written
    assert 1 == again.late
    assert again.review is None


@pytest.mark.parametrize("status", [400, 403, 409, 500])
def test_a_key_that_the_server_repeats_stands_nowhere(
    spectron: RunningServer, user: str, tmp_path: Path, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def repeat_header(seen: Seen) -> Fault:
        wrong = b"number 1" in seen.body and seen.writes_fact
        # Any other words of a 409 mean that the first request still runs, which is waited for.
        return (
            refusing(status, f"the key of {seen.headers['authorization']} was used with a different body")
            if wrong
            else "none"
        )

    with misbehaving(spectron.base_url, repeat_header) as proxy:
        try:
            said = str(replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url))
        except WrongLedger as error:  # after 409: another ledger has used the key of the memory
            said = f"{error} {error.hint}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    out, err = capfd.readouterr()
    assert 3 > len(turns_of(spectron, user))
    assert spectron.api_key.encode() not in written
    assert spectron.api_key not in f"{out} {err} {said}"


@pytest.mark.ledger_file  # a row has no mode
def test_the_list_is_for_its_owner_alone(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with misbehaving(spectron.base_url, lambda seen: "400" if seen.writes_fact else "none") as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert summary.review is not None
    assert 0o600 == Path(summary.review).stat().st_mode & 0o777


def test_an_undecidable_memory_is_named_with_the_text_that_was_sent_and_the_one_that_is_there(
    user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    silent = False

    def cut_second(seen: Seen) -> Fault:
        nonlocal silent
        silent = silent or (seen.writes_fact and b"number 1" in seen.body)
        return "none" if not silent else "cut_after" if seen.writes_fact else "cut_before"

    def altered(seen: Seen, body: bytes) -> bytes | None:
        return body.replace(b"thing number 1", b"nothing at all") if "/turns" in seen.path else None

    with server_here(tmp_path / "data", context="tests", fault_settings={}) as server:
        with misbehaving(server.base_url, cut_second) as proxy:
            replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
        server.change_faults(ahead_s=25 * 3600)
        with misbehaving(server.base_url) as proxy:
            proxy.change = altered  # type: ignore[method-assign]
            summary = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 1 == summary.undecidable
    (line,) = review_of(tmp_path / "state")
    assert f'sent "{user} remembers thing number 1"' in line["reason"]
    assert f'stored "{user} remembers nothing at all"' in line["reason"]
