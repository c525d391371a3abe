"""Taking back what a replay wrote: exact, or refused; killed at any moment and run again it is right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.errors import ExitCode, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import erases
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.erase import Eraser
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.cutover_state import Step, StepName
from spectron_migrate.state.following import FOLLOW_LOCK
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.store import store_at
from tests.support.engines import named
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, mapping_file, replay_in_no_time, texts, without_evidence
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

NOW = "2026-05-04T12:00:00.000000Z"

STATE = Path(".spectron-migrate")


@pytest.fixture
def led_to(spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.chdir(tmp_path)
    lead_to(monkeypatch, spectron, spectron.base_url)
    return spectron


def lead_to(monkeypatch: pytest.MonkeyPatch, server: RunningServer, endpoint: str, key: str | None = None) -> None:
    monkeypatch.setenv("SPECTRON_ENDPOINT", endpoint)
    monkeypatch.setenv("SPECTRON_CONTEXT", server.context)
    monkeypatch.setenv("SPECTRON_API_KEY", key or server.api_key)


def replayed(rows: list[dict[str, Any]], *words: str) -> None:
    assert 0 == run(["replay", "--dump", str(write_raw(Path("all.json"), rows)), "-q", *words])


def migration() -> str:
    with Ledger.open_for_reading(STATE) as ledger:
        known = ledger.migration()
    assert known is not None
    return known.id


def erase(*scopes: str, yes: bool = True, more: tuple[str, ...] = ()) -> int:
    named = [word for path in scopes for word in ("--scope", path, *(("--yes", path) if yes else ()))]
    return run(["erase", "--migration", migration(), *named, "--json", *more])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def rows_under(server: RunningServer, path: str) -> dict[str, int]:
    """What the server's own tables hold under a scope."""
    counts = {}
    with sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view' OR type = 'table'")]
        for table in tables:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info('{table}')")]
            if "scopes" in columns:
                query = f"SELECT count(*) FROM {table} WHERE scopes LIKE ?"
                counts[table] = db.execute(query, (f'%"{path}/%',)).fetchone()[0]
    db.close()
    return {table: count for table, count in counts.items() if count}


def post(server: RunningServer, path: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """What somebody else's program does."""
    answer = httpx.post(
        f"{server.base_url}/api/v1/{server.context}{path}",
        json=body,
        headers={"Authorization": f"Bearer {key or server.api_key}"},
    )
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_erased_scope_is_empty_its_neighbour_whole_and_the_next_replay_writes_it_again(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(5)]
    replayed(rows)
    capsys.readouterr()
    assert 0 == erase(f"user/{user}a")
    assert {} == rows_under(led_to, f"user/{user}a")
    assert 5 == len(turns_of(led_to, f"{user}b"))
    answer = told(capsys)
    assert 5 == answer["scopes"][0]["memories"]
    assert 5 == answer["scopes"][0]["turns"]
    assert answer["erased"]
    assert any("cannot be seen, and will be erased too" in warning for warning in answer["warnings"])
    assert 0 == run(["status", "--json"])
    standing = told(capsys)
    assert [f"user/{user}a"] == list(standing["erased"])
    assert 5 == standing["states"]["planned"]
    assert 0 == run(["replay", "--dump", "all.json", "--json"])
    again = told(capsys)
    assert 5 == again["written"]
    assert 5 == again["already"]
    assert 0 == again["late"]
    assert 0 == again["refused"]
    expected = [f"{user}a remembers thing number {number}" for number in range(5)]
    assert expected == [turn.content for turn in turns_of(led_to, f"{user}a")]
    assert run(["dual-verify", "--dump", "all.json", "--json"]) in (0, 5)
    integrity = told(capsys)["integrity"]
    assert 10 == integrity["expected"]
    assert 10 == integrity["present"]


def test_what_was_written_in_batches_is_erased_and_written_again(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n    infer: none\n"
    Path("mapping.yaml").write_text(f"version: 1\nwrite: batch\nrules:\n{rule}")
    rows = [memory(number, user) for number in range(5)]
    replayed(rows, "--mapping", "mapping.yaml")
    assert 0 == erase(f"user/{user}")
    assert [] == turns_of(led_to, user)
    replayed(rows, "--mapping", "mapping.yaml")
    assert [f"{user} remembers thing number {number}" for number in range(5)] == [
        turn.content for turn in turns_of(led_to, user)
    ]


def test_a_subtree_goes_with_its_node_and_only_the_newest_text_is_planned_again(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [memory(1, user, "likes tea"), memory(2, user, "asks twice", agent_id="helper")]
    replayed(rows)
    rows[0] = memory(1, user, "likes coffee", updated_at="2025-06-01T00:00:00+00:00")
    replayed(rows)
    capsys.readouterr()
    assert 0 == erase(f"user/{user}")
    assert [f"user/{user}/agent", f"user/{user}/agent/helper"] == told(capsys)["scopes"][0]["nodes"]
    replayed(rows)
    assert ["likes coffee", "asks twice"] == sorted(
        (turn.content for turn in turns_of(led_to, user)), key=lambda text: -text.count("l")
    )


def test_looking_changes_nothing(led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]) -> None:
    replayed([memory(1, user)])
    capsys.readouterr()
    assert 0 == erase(f"user/{user}", yes=False, more=("--dry-run",))
    answer = told(capsys)
    assert not answer["erased"]
    assert 1 == answer["scopes"][0]["memories"]
    assert any("cannot be seen, and would be erased too" in warning for warning in answer["warnings"])
    assert 1 == len(turns_of(led_to, user))


def test_without_a_terminal_each_scope_has_to_be_confirmed_before_the_first_is_erased(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, f"{user}{letter}") for letter in "ab"])
    capsys.readouterr()
    code = erase(f"user/{user}a", f"user/{user}b", yes=False, more=("--yes", f"user/{user}a"))
    assert 12 == code
    assert f"--yes user/{user}b" == told(capsys)["error"]["hint"].removeprefix("repeat it: ")
    assert [1, 1] == [len(turns_of(led_to, f"{user}{letter}")) for letter in "ab"]


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert 10 == code
    return str(told(capsys)["error"]["message"])


def test_a_node_below_that_others_made_is_not_hit(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    post(led_to, "/scopes", {"path": f"user/{user}/diary"})
    capsys.readouterr()
    assert f"user/{user}/diary below user/{user} was made by somebody else" in refused(erase(f"user/{user}"), capsys)
    assert 1 == len(turns_of(led_to, user))


def test_a_node_above_that_was_made_on_the_way_is_not_ours_to_erase(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    capsys.readouterr()
    assert "scope user was not registered by this migration" in refused(erase("user"), capsys)


def test_a_scope_that_was_there_before_is_not_hit(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    post(led_to, "/scopes", {"path": f"user/{user}"})
    replayed([memory(1, user)], "--into-existing")
    capsys.readouterr()
    assert f"scope user/{user} was not registered by this migration" in refused(erase(f"user/{user}"), capsys)


def test_turns_of_others_in_our_session_are_not_hit(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    session = turns_of(led_to, user)[0].session
    post(led_to, "/facts", {"text": "their words", "infer": "none", "session_id": session})
    capsys.readouterr()
    assert "holds 1 turn of others" in refused(erase(f"user/{user}"), capsys)
    assert 2 == len(turns_of(led_to, user))


def test_what_others_wrote_in_a_session_of_their_own_is_found_by_recall_and_not_hit(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    post(led_to, "/facts", {"text": "an application's own memory", "infer": "none", "scopes": [[f"user/{user}"]]})
    capsys.readouterr()
    assert "1 passage in user/" in refused(erase(f"user/{user}"), capsys)
    assert 2 == len(turns_of(led_to, user))


def test_memories_that_are_in_another_scope_too_go_only_with_it(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "  - when: {user_id: '*'}\n    scope: {all_of: [{team: " + user + "}, {user: '{user_id}'}]}\n"
    Path("mapping.yaml").write_text(f"version: 1\nrules:\n{rule}")
    replayed([memory(1, user)], "--mapping", "mapping.yaml")
    capsys.readouterr()
    assert f"also in scope team/{user}, which stays" in refused(erase(f"user/{user}"), capsys)
    assert 0 == erase(f"user/{user}", f"team/{user}")
    assert [] == turns_of(led_to, user)


def test_what_is_not_decided_has_to_be_decided_first(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user), memory(2, user)])
    with Ledger.open_for_writing(STATE) as ledger, ledger.transaction():
        ledger.db.execute("UPDATE fact SET state = 'undecidable' WHERE position = 1")
    capsys.readouterr()
    assert "holds 1 memory not decided yet" in refused(erase(f"user/{user}"), capsys)


def record(*steps: StepName, **more: Any) -> None:
    """Steps of a cutover, as the command records them."""
    for name in steps:
        record_step(STATE, Step(name, NOW, "anna", **({"migration": migration()} if name == "start" else more)))


def test_nothing_is_erased_while_a_cutover_is_under_way_and_the_hint_leads_to_the_erase(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    record("start")
    capsys.readouterr()
    assert "under way" in refused(erase(f"user/{user}"), capsys)
    record("abort")
    assert 0 == erase(f"user/{user}")
    assert [] == turns_of(led_to, user)


@pytest.mark.parametrize(
    ("step", "more"), [("shift", {"percent": 1.0}), ("pin", {"spectron": ("alice",)})], ids=["shift", "pin"]
)
def test_nothing_is_erased_once_a_read_was_shifted_not_even_after_an_abort_and_a_new_start(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str], step: StepName, more: dict[str, Any]
) -> None:
    replayed([memory(1, user)])
    record("start", step, **more)
    capsys.readouterr()
    for steps in ((), ("revert",), ("abort",), ("start",), ("abort",)):
        record(*steps)  # type: ignore[arg-type]
        assert f"reads were shifted to Spectron at {NOW}" in refused(erase(f"user/{user}"), capsys)
    record("start", "complete")
    assert 10 == erase(f"user/{user}")
    hint = told(capsys)["error"]["hint"]
    assert "POST /scopes/forget" in hint
    assert "abort" not in hint, "that is not legal any more"
    assert 1 == len(turns_of(led_to, user))


def test_a_shift_of_0_percent_and_a_pin_to_mem0_move_no_read(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    record("start")
    record("shift", percent=0.0)
    record("pin", mem0=("alice",))
    record("abort")
    assert 0 == erase(f"user/{user}")


def test_nothing_is_erased_where_the_journal_lacks_what_the_routing_knows(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    record("start")
    store = store_at(STATE)
    started = store.lines("cutover.jsonl")
    record("shift", percent=50.0)
    record("abort")
    for journal in (started, []):
        store.write_lines("cutover.jsonl", journal)
        capsys.readouterr()
        assert "lines of cutover.jsonl are missing" in refused(erase(f"user/{user}"), capsys)
    store.remove("routing.json")
    store.write("routing.json", b"{}")
    assert "lines of cutover.jsonl are missing" in refused(erase(f"user/{user}"), capsys)


def test_nothing_is_erased_while_somebody_follows_mem0(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed([memory(1, user)])
    capsys.readouterr()
    held = store_at(STATE).try_lock(FOLLOW_LOCK)
    assert held is not None
    with held:
        assert "--follow is running" in refused(erase(f"user/{user}"), capsys)


def test_another_migration_is_refused(led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]) -> None:
    replayed([memory(1, user)])
    capsys.readouterr()
    assert 2 == run(["erase", "--migration", "0123456789abcdef", "--scope", f"user/{user}", "--json"])
    assert migration() in told(capsys)["error"]["message"]


def test_a_grant_for_the_node_alone_is_not_enough(
    tmp_path: Path, user: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs = ("memory:read", "memory:write", "scope:read", "scope:create")
    grants = {**{verb: ["*"] for verb in verbs}, "memory:forget": [f"user/{user}"]}
    monkeypatch.chdir(tmp_path)
    with server_here(context="grants", principals={"ann": {"key": "sk-ann", "grants": grants}}) as server:
        lead_to(monkeypatch, server, server.base_url, "sk-ann")
        replayed([memory(1, user)])
        capsys.readouterr()
        assert 6 == erase(f"user/{user}")
    assert "memory:forget" in told(capsys)["error"]["message"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_call_it_holds_up_every_replay_until_it_is_run_again(
    led_to: RunningServer,
    user: str,
    moment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replayed([memory(number, user) for number in range(3)])
    running: list[subprocess.Popen[bytes]] = []

    def kill(seen: Seen) -> Fault:
        called = seen.path.endswith("/scopes/forget")
        if (called and moment == "before") or (seen.path.endswith("/turns") and forgotten):
            running[0].send_signal(signal.SIGKILL)
            running[0].wait()
        forgotten.extend([called] if called else [])
        return "cut_before" if called and moment == "before" else "none"

    forgotten: list[bool] = []
    words = ["erase", "--migration", migration(), "--scope", f"user/{user}", "--yes", f"user/{user}"]
    words += ["--state", named(STATE)]
    with misbehaving(led_to.base_url, kill) as proxy:
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_ENDPOINT": proxy.base_url,
            "SPECTRON_CONTEXT": led_to.context,
            "SPECTRON_API_KEY": led_to.api_key,
        }
        command = [sys.executable, "-m", "spectron_migrate", *words]
        running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
        running[0].wait(timeout=60)
    assert -signal.SIGKILL == running[0].returncode
    assert (3 if moment == "before" else 0) == len(turns_of(led_to, user))
    with Ledger.open_for_reading(STATE) as ledger:
        assert [f"user/{user}"] == erases.unfinished(ledger)
    capsys.readouterr()
    assert 10 == run(["replay", "--dump", "all.json", "--json"])
    assert "begun but not finished" in told(capsys)["error"]["message"]
    assert 0 == run(["status", "--json"])
    assert "erase" in told(capsys)["next"]
    waits: list[float] = []

    async def outlast(api: SpectronApi, already_s: float = 0.0) -> None:
        waits.append(api.timeout_s - already_s)

    monkeypatch.setattr(SpectronApi, "outlast_requests", outlast)
    assert 0 == erase(f"user/{user}")
    assert 1 == len(waits)
    replayed([memory(number, user) for number in range(3)])
    assert [f"{user} remembers thing number {number}" for number in range(3)] == [
        turn.content for turn in turns_of(led_to, user)
    ]


def erase_scope(
    server: RunningServer,
    state: Path,
    path: str,
    between: object = None,
    *,
    endpoint: str | None = None,
    waited: Callable[[float], None] = lambda seconds: None,
) -> int:
    async def sleep(seconds: float) -> None:
        waited(seconds)
        await asyncio.sleep(0)

    async def work() -> int:
        where = endpoint or server.base_url
        async with SpectronApi(where, server.context, api_key=server.api_key, timeout_s=20.0, sleep=sleep) as api:
            with Ledger.open_for_writing(state) as ledger:
                known = ledger.migration()
                assert known is not None
                eraser = Eraser(ledger, api, state, migration=known.id, now=NOW, reporter=NullReporter())
                found = await eraser.examine([path])
                if callable(between):
                    between()
                return await eraser.carry_out(found)

    return asyncio.run(work())


def others_turns(server: RunningServer, path: str) -> int:
    with closing(sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM turns WHERE scopes LIKE ?", (f'%"{path}/%',)).fetchone()[0])


def call_api(server: RunningServer, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
    import httpx

    answer = httpx.request(
        method,
        f"{server.base_url}/api/v1/{server.context}{path}",
        json=body,
        headers={"Authorization": f"Bearer {server.api_key}"},
    )
    assert answer.status_code in (200, 201, 204), answer.text


def test_a_tombstoned_node_of_others_below_a_scope_prevents_the_erase(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """Tombstoning takes the node alone: what was written there is still there, and would go."""
    dump = write_raw(tmp_path / "all.json", [memory(number, user, f"{user} thing {number}") for number in range(40)])
    replay(spectron, tmp_path / "state", [dump])
    theirs = f"user/{user}/diary"
    call_api(spectron, "POST", "/scopes", {"path": theirs})
    call_api(spectron, "POST", "/facts", {"text": "zzz their own words", "infer": "none", "scopes": [[theirs]]})
    call_api(spectron, "DELETE", f"/scopes?path={theirs}")
    assert 1 == others_turns(spectron, theirs)
    with suppress(NotLegal):
        erase_scope(spectron, tmp_path / "state", f"user/{user}")
    assert 1 == others_turns(spectron, theirs)


def test_a_node_of_others_made_before_the_confirmation_prevents_the_erase(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, f"{user} thing {number}") for number in range(40)])
    replay(spectron, tmp_path / "state", [dump])
    theirs = f"user/{user}/diary"

    def meanwhile() -> None:
        call_api(spectron, "POST", "/scopes", {"path": theirs})
        call_api(spectron, "POST", "/facts", {"text": "zzz their own words", "infer": "none", "scopes": [[theirs]]})

    with suppress(NotLegal):
        erase_scope(spectron, tmp_path / "state", f"user/{user}", meanwhile)
    assert 1 == others_turns(spectron, theirs)


def test_a_cutover_begun_before_the_confirmation_prevents_the_erase(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user)])])

    def meanwhile() -> None:
        record_step(tmp_path / "state", Step("start", NOW, "anna", migration="m"))

    with pytest.raises(NotLegal):
        erase_scope(spectron, tmp_path / "state", f"user/{user}", meanwhile)
    assert 1 == len(turns_of(spectron, user))


def test_texts_of_others_that_are_part_of_ours_are_not_taken_for_ours(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user, "likes tea with milk")])])
    theirs = {"text": "tea with milk", "infer": "none", "scopes": [[f"user/{user}"]]}
    call_api(spectron, "POST", "/facts", theirs)
    with suppress(NotLegal):
        erase_scope(spectron, tmp_path / "state", f"user/{user}")
    assert "tea with milk" in texts(spectron, user)


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
    erase_scope(spectron, state, f"user/{user}")
    done = replay_in_no_time(spectron, state, both, mapping=mapping)
    assert ExitCode.DONE == done.exit_code
    assert 2 == len(texts(spectron, user))


def test_what_was_refused_before_an_erase_holds_nothing_late_after_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def refuse_the_newest(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact and b"number 2" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_the_newest) as proxy:
        replay(spectron, state, [dump], endpoint=proxy.base_url)
    erase_scope(spectron, state, f"user/{user}")
    done = replay(spectron, state, [dump])
    assert 2 == done.written
    assert 0 == done.late


def test_a_scope_that_holds_more_than_one_query_can_show_is_not_erased(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(55)])
    replay(spectron, tmp_path / "state", [dump])
    call_api(spectron, "POST", "/facts", {"text": "zzz their own words", "infer": "none", "scopes": [[f"user/{user}"]]})
    with pytest.raises(NotLegal, match="cannot show"):
        erase_scope(spectron, tmp_path / "state", f"user/{user}")
    assert 56 == len(turns_of(spectron, user))


def test_a_scope_of_others_that_a_server_answers_201_again_for_is_not_ours(user: str, tmp_path: Path) -> None:
    first = write_raw(tmp_path / "first.json", [memory(1, f"{user}a")])
    both = write_raw(tmp_path / "both.json", [memory(1, f"{user}a"), memory(1, f"{user}b")])
    with server_here(tmp_path / "data", context="tests", fault_settings={"ahead_s": -3600.0}) as server:
        replay(server, tmp_path / "state", [first])
        call_api(server, "POST", "/scopes", {"path": f"user/{user}b"})
        server.change_faults(ahead_s=0.0)
        replay(server, tmp_path / "state", [both], options=ReplayOptions(into_existing=True))
        with pytest.raises(NotLegal, match="was not registered by this migration"):
            erase_scope(server, tmp_path / "state", f"user/{user}b")


@pytest.mark.parametrize("dated", [True, False], ids=["a moment ago", "without a time"])
def test_a_scope_that_others_made_during_the_run_is_not_ours_though_the_answer_is_201(
    user: str, tmp_path: Path, *, dated: bool
) -> None:
    """Made after the scopes were listed, and before our own POST."""
    rows = write_raw(tmp_path / "all.json", [memory(1, f"{user}a"), memory(2, f"{user}b")])
    made: list[str] = []

    def make_the_other(seen: Seen) -> Fault:
        if seen.method == "POST" and seen.path.endswith("/scopes") and not made and user.encode() in seen.body:
            other = f"user/{user}b" if f"{user}a".encode() in seen.body else f"user/{user}a"
            made.append(other)
            call_api(server, "POST", "/scopes", {"path": other})
            server.change_faults(ahead_s=3.0)
        return "none"

    with server_here(tmp_path / "data", context="tests", fault_settings={}) as server:
        with misbehaving(server.base_url, make_the_other) as proxy:
            if not dated:
                proxy.change = without_creation_time  # type: ignore[method-assign]
            options = ReplayOptions(max_in_flight=1)
            replay(server, tmp_path / "state", [rows], endpoint=proxy.base_url, options=options)
        with pytest.raises(NotLegal, match="was not registered by this migration"):
            erase_scope(server, tmp_path / "state", made[0])
        assert 1 == others_turns(server, made[0])


def without_creation_time(seen: Seen, body: bytes) -> bytes | None:
    """The answer to a registration without the time at which the node was made."""
    if not seen.path.endswith("/scopes") or seen.method != "POST":
        return None
    return json.dumps({**json.loads(body), "createdAt": None}).encode()


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "500_after"])
def test_a_call_to_erase_that_may_still_arrive_is_outlasted(
    spectron: RunningServer, user: str, tmp_path: Path, fault: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    replay(spectron, tmp_path / "state", [dump])
    calls = 0
    waits: list[float] = []

    def doubtful_at_first(seen: Seen) -> Fault:
        nonlocal calls
        calls += seen.path.endswith("/scopes/forget")
        return fault if seen.path.endswith("/scopes/forget") and calls == 1 else "none"

    def note(seconds: float) -> None:
        waits.append(seconds)
        if seconds >= 20.0:
            with Ledger.open_for_reading(tmp_path / "state") as ledger:
                assert [f"user/{user}"] == erases.unfinished(ledger)

    with misbehaving(spectron.base_url, doubtful_at_first) as proxy:
        erase_scope(spectron, tmp_path / "state", f"user/{user}", endpoint=proxy.base_url, waited=note)
    assert 20.0 <= max(waits)
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert [] == erases.unfinished(ledger)
