"""Each thing that makes a migration fail later is found before anything is written, with a way to mend it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.doctor import Check, Diagnosis, run_doctor
from spectron_migrate.doctor.machine import check_machine
from spectron_migrate.doctor.mem0 import check_mem0
from spectron_migrate.doctor.spectron import extraction
from spectron_migrate.errors import ExitCode, InputError, KeyRefused
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.migration.export import run_export
from spectron_migrate.records import Filters, NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = "version: 1\nrules:\n  - {when: {user_id: '*'}, scope: {user: '{user_id}'}}\n"


def export(folder: Path, rows: list[dict[str, Any]]) -> Path:
    reader = FilesReader([write_raw(folder / "all.json", rows)], now=NOW)
    with reader:
        run_export(
            reader,
            folder / "dump",
            filters=Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: NOW,
        )
    return folder / "dump"


def diagnose(
    server: RunningServer,
    folder: Path,
    *,
    mapping: str | None = None,
    key: str | None = None,
    context: str | None = None,
    now: datetime | None = None,
) -> Diagnosis:
    if mapping is not None:
        (folder / "mapping.yaml").write_text(mapping)
    return asyncio.run(
        run_doctor(
            mem0=None,
            mapping=folder / "mapping.yaml" if mapping is not None else None,
            dump=folder / "dump",
            state=folder / "state",
            api=lambda: SpectronApi(
                server.base_url, context or server.context, api_key=server.api_key if key is None else key
            ),
            now=now or datetime.now(UTC),
            reporter=NullReporter(),
        )
    )


def found(diagnosis: Diagnosis, name: str, status: str) -> Check:
    chosen = [check for check in diagnosis.checks if (check.name, check.status) == (name, status)]
    assert chosen, [(check.name, check.status, check.said) for check in diagnosis.checks]
    return chosen[0]


def test_all_is_well_where_it_is(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    export(tmp_path, [memory(number, user) for number in range(3)])
    diagnosis = diagnose(spectron, tmp_path)
    assert ([], ExitCode.DONE) == ([c for c in diagnosis.checks if c.status in ("warn", "fail")], diagnosis.exit_code)
    assert "may read, write and create 1 scope" in found(diagnosis, "grants", "ok").said
    assert "searches by user_id can be answered" == found(diagnosis, "mapping: filters", "ok").said


@pytest.mark.parametrize("wrong", [{"key": "sk-wrong"}, {"context": "unheard-of"}])
def test_a_wrong_key_and_an_unknown_context_are_told_together(
    spectron: RunningServer, tmp_path: Path, wrong: dict[str, str]
) -> None:
    diagnosis = diagnose(spectron, tmp_path, **wrong)
    check = found(diagnosis, "spectron", "fail")
    assert "an unknown context is answered like a wrong key" in check.hint
    assert ExitCode.KEY == diagnosis.exit_code


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    class Gone:
        base_url, context, api_key = "http://127.0.0.1:9", "nowhere", "sk"

    async def nap(_: float) -> None:
        """Wait for nothing."""

    async def diagnosis() -> Diagnosis:
        return await run_doctor(
            mem0=None,
            mapping=None,
            dump=tmp_path / "dump",
            state=tmp_path / "state",
            api=lambda: SpectronApi(Gone.base_url, Gone.context, api_key=Gone.api_key, sleep=nap),
            now=NOW,
            reporter=NullReporter(),
        )

    assert ExitCode.UNREACHABLE == asyncio.run(diagnosis()).exit_code


def test_missing_grants_are_named_with_the_scopes_they_are_missing_for(tmp_path: Path) -> None:
    grants = {"memory:write": ["*"], "memory:read": ["user/anna/*"], "scope:read": ["*"]}
    principals = {"half": {"grants": grants, "key": "sk-half"}}
    with server_here(tmp_path / "spectron", context="grants", principals=principals) as server:
        export(tmp_path, [memory(0, "anna"), memory(1, "bo")])
        diagnosis = diagnose(server, tmp_path, key="sk-half")
    said = [check.said for check in diagnosis.checks if check.name == "grants"]
    assert "the key lacks memory:read for 1 of 2 scopes: user/bo" in said
    assert "the key lacks scope:create for 2 of 2 scopes: user/anna, user/bo" in said
    assert ExitCode.KEY == diagnosis.exit_code


def test_grants_are_looked_for_before_any_scope_is_known(tmp_path: Path) -> None:
    principals = {"reader": {"grants": {"memory:read": ["*"], "scope:read": ["*"]}, "key": "sk-reader"}}
    with server_here(tmp_path / "spectron", context="grants", principals=principals) as server:
        check = found(diagnose(server, tmp_path, key="sk-reader"), "grants", "fail")
        unknown = found(diagnose(server, tmp_path), "grants", "unknown")
    assert "the key has memory:write and scope:create nowhere" == check.said
    assert "not known before an export" in unknown.said


def test_scopes_that_are_there_without_a_ledger_are_in_the_way(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    export(tmp_path, [memory(0, user)])
    replay(spectron, tmp_path / "state", [tmp_path / "dump"])
    assert ExitCode.DONE == diagnose(spectron, tmp_path).exit_code
    shutil.rmtree(tmp_path / "state")
    diagnosis = diagnose(spectron, tmp_path)
    check = found(diagnosis, "scopes", "fail")
    assert f"1 scope is there already, and in no ledger of ours: user/{user}" == check.said
    assert ("--state" in check.hint, ExitCode.NOT_LEGAL) == (True, diagnosis.exit_code)


@pytest.mark.parametrize(("by", "said"), [(timedelta(hours=2), "ahead of"), (-timedelta(hours=2), "behind")])
def test_a_clock_that_is_wrong_is_said(spectron: RunningServer, tmp_path: Path, by: timedelta, said: str) -> None:
    check = found(diagnose(spectron, tmp_path, now=datetime.now(UTC) + by), "clock", "warn")
    assert f"s {said} the server's" in check.said


def test_memories_without_a_place_and_filters_without_an_answer_are_named(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    bot = {**memory(0, "bot"), "user_id": None, "agent_id": "bot"}
    export(tmp_path, [memory(1, user), bot, {**memory(2, "x"), "user_id": None}])
    diagnosis = diagnose(spectron, tmp_path)
    assert "1 memory has no place: x-0002" in found(diagnosis, "mapping: places", "fail").said
    assert "a filter by agent_id cannot be served" in found(diagnosis, "mapping: filters", "warn").said
    assert ExitCode.INPUT == diagnosis.exit_code


def test_a_mapping_in_which_two_ids_could_meet_is_refused_here_already(spectron: RunningServer, tmp_path: Path) -> None:
    bad = "version: 1\nrules:\n  - {when: {user_id: '{a}:{b}'}, scope: {user: '{a}'}}\n"
    diagnosis = diagnose(spectron, tmp_path, mapping=bad)
    assert "one scope for two different user_id" in found(diagnosis, "mapping", "fail").said
    assert ExitCode.INPUT == diagnosis.exit_code


def test_times_and_what_expires_are_warned_of(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [
        memory(0, user, updated_at="2025-06-01T00:00:00+00:00"),
        memory(1, user, at="2031-01-01T00:00:00+00:00"),
        {**memory(2, user), "created_at": None, "updated_at": None},
        memory(3, user, expiration_date="2030-01-01"),
    ]
    export(tmp_path, rows)
    diagnosis = diagnose(spectron, tmp_path, mapping=PLAIN + "category: context\n")
    warned = " | ".join(check.said for check in diagnosis.checks if check.status == "warn")
    for said in (
        "memories is a guess (`updated_at`)",
        "1 memory has no time",
        "1 memory has a time in the future",
        "1 memory would expire in Mem0",
        "4 memories are written as `context`",
    ):
        assert said in warned


def test_half_a_dump_and_an_altered_one_are_said(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = export(tmp_path, [memory(0, user)])
    (dump / "memories.jsonl").write_text("{}\n")
    assert "is cut off" in found(diagnose(spectron, tmp_path), "dump", "fail").said


def test_extraction_that_is_off_shows_in_the_ledger() -> None:
    assert "unknown" == extraction({}).status
    assert "warn" == extraction({"stored_not_extracted": 9, "written": 1}).status
    assert "llm_extraction_enabled" in extraction({"stored_not_extracted": 9}).hint
    assert "ok" == extraction({"stored_not_extracted": 1, "written": 9}).status


def of(checks: Iterator[Check], name: str) -> list[tuple[str, str]]:
    return [(check.status, check.said) for check in checks if check.name == name]


def test_a_full_disk_and_one_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    state, dump = tmp_path / "state", tmp_path / "dump"
    for left, status in ((1 << 20, "fail"), (500 << 20, "warn"), (5 << 30, "ok")):
        checks = check_machine(state, dump, free=lambda _, left=left: left, mounts=lambda: [])  # type: ignore[misc]
        assert [(status, f"{left >> 20} MB are free at {tmp_path}")] == [
            (kind, said.split(",")[0]) for kind, said in of(checks, "disk: state")
        ]


def test_a_ledger_on_a_file_system_of_several_hosts_is_refused(tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4")]
    checks = check_machine(tmp_path / "state", tmp_path / "dump", mounts=lambda: mounts)
    assert [("fail", f"the state directory is on nfs4 ({tmp_path})")] == of(checks, "file system")
    assert (
        "ok" == of(check_machine(tmp_path / "s", tmp_path / "d", mounts=lambda: [("/", "ext4")]), "file system")[0][0]
    )


def test_what_others_can_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    os.chmod(tmp_path / "state", 0o755)
    (kind, said), *_ = of(check_machine(tmp_path / "state", tmp_path / "dump"), "privacy")
    assert ("warn", True) == (kind, "mode 755" in said)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_memories_that_git_tracks_are_found(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    (dump / "memories.jsonl").write_text("{}\n")
    assert "ok" == of(check_machine(tmp_path / "state", dump), "git")[0][0]
    for words in (["init", "-q"], ["add", "-f", "dump/memories.jsonl"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (kind, said), *_ = of(check_machine(tmp_path / "state", dump), "git")
    assert ("fail", True) == (kind, str(dump) in said)


@pytest.mark.parametrize(
    ("version", "on_disk", "status"),
    [("0.1.118", False, "fail"), ("1.0.7", False, "fail"), ("1.0.8", False, "warn"), ("0.1.118", True, "ok")],
)
def test_a_mem0_that_erases_its_store_on_opening_is_warned_of(
    tmp_path: Path, version: str, on_disk: bool, status: str
) -> None:
    config = {"vector_store": {"provider": "qdrant", "config": {"path": str(tmp_path), "on_disk": on_disk}}}
    (tmp_path / "mem0.json").write_text(json.dumps(config))
    checks = check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version=version, now=NOW)
    assert status == of(checks, "mem0 version")[0][0]


def test_a_store_that_cannot_be_read_says_why_and_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "mem0.json").write_text(json.dumps({"vector_store": {"provider": "redis", "config": {}}}))
    checks = list(check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version="2.2.1", now=NOW))
    assert ("fail", True) == (checks[-1].status, "export --from" in checks[-1].hint)


def test_what_is_missing_of_the_settings_are_checks_among_the_others(tmp_path: Path) -> None:
    def no_mem0() -> Any:
        raise KeyRefused("no Mem0 key is set")

    def no_api() -> Any:
        raise InputError.of_all(["no endpoint", "no context"])

    diagnosis = asyncio.run(
        run_doctor(
            mem0=no_mem0,
            mapping=None,
            dump=tmp_path / "dump",
            state=tmp_path / "state",
            api=no_api,
            now=NOW,
            reporter=NullReporter(),
        )
    )
    assert "no Mem0 key is set" == found(diagnosis, "mem0", "fail").said
    assert "2 problems: no endpoint; no context" == found(diagnosis, "spectron", "fail").said
    assert ExitCode.KEY == diagnosis.exit_code  # the first that fails


def test_the_command_tells_people_and_scripts_the_same(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", "sk-not-this-one")
    write_raw(Path("get_all.json"), [memory(0, user)])
    assert ExitCode.DONE == run(["init", "-q"])
    capsys.readouterr()
    assert ExitCode.KEY == run(["doctor"])
    people = capsys.readouterr().out
    assert "FAIL spectron: " in people
    assert "sk-not-this-one" not in people
    assert ExitCode.KEY == run(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (1, 6, None) == (told["fail"], told["exit_code"], told["next"])
    assert "spectron" in [check["name"] for check in told["checks"] if check["status"] == "fail"]
    assert not (tmp_path / ".spectron-migrate").exists()
    assert not (tmp_path / "dump").exists()


def test_ids_that_would_command_a_terminal_are_shown_as_text(
    spectron: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    export(
        tmp_path, [{"id": "\x1b[31m[bold]x[/bold]\x07", "memory": "Likes tea", "created_at": "2025-01-01T00:00:00Z"}]
    )
    assert ExitCode.INPUT == run(["doctor"])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert not {"\x1b", "\x07"} & set(out)
