"""A mistake of the user: one sentence that says what and where, a hint, a documented exit code, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.local.testing import RunningServer
from tests.support.spectron import memory, turns_of, write_raw

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def one_memory(user: str = "alice") -> str:
    return str(write_raw(Path("get_all.json"), [memory(1, user)]))


def error_shown(capsys: pytest.CaptureFixture[str]) -> str:
    """The text on stderr, which must contain an error and no traceback; stdout must be empty."""
    out, err = capsys.readouterr()
    assert "" == out
    assert "Traceback" not in err
    assert err.startswith("error: ") or "\nerror: " in err
    return err


MAPPING_MISTAKES = {
    "unreadable YAML": ("version: 1\nrules: [}\n", "mapping.yaml:2"),
    "an unknown key": ("version: 1\nrulez: []\n", "mapping.yaml:2"),
    "an unknown field": (
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{usr_id}'}\n",
        "mapping.yaml:4",
    ),
    "a field without a condition": (
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {agent: '{agent_id}'}\n",
        "mapping.yaml:4",
    ),
    "an empty scope": ("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {}\n", "mapping.yaml:4"),
    "an illegal segment": (
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {org: 'ACME Inc', user: '{user_id}'}\n",
        "mapping.yaml:4",
    ),
}


@pytest.mark.parametrize("mistake", MAPPING_MISTAKES)
def test_a_mistake_in_the_mapping_is_named_with_its_line(
    mistake: str, configured: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    text, where = MAPPING_MISTAKES[mistake]
    Path("mapping.yaml").write_text(text)
    assert 2 == run(["replay", "--dump", one_memory(), "--mapping", "mapping.yaml"])
    assert where in error_shown(capsys)
    assert not Path(".spectron-migrate").exists()


DUMP_MISTAKES = {
    "cut off": b'{"results": [{"id": "1", "memory": "tea", "user_id": "alice"}, {"id": "2", "mem',
    "no Mem0 dump": b'{"hello": "world"}',
    "no JSON": b"hello world",
    "empty": b"",
    "binary": b"\x00\x01\x02\xff\xfe",
    "a list of numbers": b"[1, 2, 3]",
}


@pytest.mark.parametrize("mistake", DUMP_MISTAKES)
def test_a_file_that_is_not_a_dump_is_named(
    mistake: str, configured: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.json").write_bytes(DUMP_MISTAKES[mistake])
    assert 2 == run(["replay", "--dump", "broken.json"])
    assert "broken.json" in error_shown(capsys) or mistake == "a list of numbers"
    assert not Path(".spectron-migrate").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_truncated_or_altered_dump_is_refused(
    damage: str, configured: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["export", "--from", one_memory(), "-q"])
    capsys.readouterr()
    memories = Path("dump/memories.jsonl")
    if damage == "gone":
        memories.unlink()
    else:
        data = memories.read_bytes()
        memories.write_bytes(data[:-20] if damage == "cut" else data.replace(b"alice", b"mallo"))
    assert 2 == run(["replay"])
    assert "memories.jsonl" in error_shown(capsys)
    assert not Path(".spectron-migrate").exists()


def test_progress_is_shown_in_one_of_four_ways(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("all.json"), [memory(1, user)])
    for way in ("auto", "bar", "lines", "none"):
        assert 0 == run(["replay", "--dump", "all.json", "--dry-run", "--progress", way])
    assert 2 == run(["replay", "--dump", "all.json", "--progress", "sometimes"])
    assert "'auto', 'bar', 'lines', 'none'" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_key_is_exit_code_6(
    configured: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    monkeypatch.setenv("SPECTRON_API_KEY", "sk-wrong-key-123")
    assert 6 == run(["replay", "--dump", one_memory(user)])
    message = error_shown(capsys)
    assert "401" in message
    assert "sk-wrong-key-123" not in message
    assert [] == turns_of(configured, user)


def test_no_key_is_exit_code_6_and_no_endpoint_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = one_memory()
    assert 2 == run(["replay", "--dump", dump])
    assert "SPECTRON_ENDPOINT" in error_shown(capsys)
    monkeypatch.setenv("SPECTRON_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("SPECTRON_CONTEXT", "c")
    assert 6 == run(["replay", "--dump", dump])
    assert "SPECTRON_API_KEY" in error_shown(capsys)
    assert not Path(".spectron-migrate").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay", "--dump", "nowhere"], "nowhere"),
        (["replay", "--usr", "alice"], "--usr"),
        (["replay", "--max-in-flight", "0"], "--max-in-flight"),
        (["replya"], "replya"),
        (["export"], "no Mem0 is named"),
        (["export", "--mem0-config", "nowhere.yaml"], "nowhere.yaml"),
        (["export", "--from", "nowhere*.json"], "nowhere"),
        (["replay", "--user", "@nobody.txt"], "nobody.txt"),
        (["status"], "ledger"),
        (["local", "--api", "7"], "--api"),
        (["local", "--host", "0.0.0.0"], "16"),
        (["local", "--context", "no/context"], "--context"),
        (["replay", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_wrong_argument_is_exit_code_2_and_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == run(arguments)
    assert named in error_shown(capsys)


@pytest.mark.parametrize("arguments", [["replay", "--dump", "nowhere"], ["replay", "--usr", "x"], ["status"]])
def test_with_json_a_failure_is_exactly_one_object_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == run([*arguments, "--json"])
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert 1 == out.count("\n")
    assert 1 == answer["schema"]
    assert arguments[0] == answer["command"]
    assert 2 == answer["exit_code"]
    assert {"kind", "message", "hint"} == set(answer["error"])


def test_an_unknown_key_in_the_settings_is_refused_with_the_most_similar_known_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("spectron-migrate.yaml").write_text("version: 1\nspectron: {endpiont: https://x.example}\n")
    assert 2 == run(["replay", "--dump", one_memory()])
    message = error_shown(capsys)
    assert "spectron-migrate.yaml:2" in message
    assert "endpoint" in message


def test_a_key_written_into_the_settings_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    Path("spectron-migrate.yaml").write_text("version: 1\nspectron: {api_key: sk-literal-secret}\n")
    assert 2 == run(["replay", "--dump", one_memory()])
    assert "sk-literal-secret" not in error_shown(capsys)


def test_a_bug_is_exit_code_1_and_its_traceback_is_only_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPECTRON_API_KEY", "sk-secret-in-a-bug")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken while holding sk-secret-in-a-bug")

    monkeypatch.setattr("spectron_migrate.cli.replay.run", broken)
    assert 1 == run(["replay", "--dump", one_memory()])
    message = error_shown(capsys)
    assert "log.jsonl" in message
    record = json.loads(Path(".spectron-migrate/log.jsonl").read_text().splitlines()[-1])
    assert "RuntimeError" in record["traceback"]
    assert "sk-secret-in-a-bug" not in record["traceback"]
    assert 0o600 == Path(".spectron-migrate/log.jsonl").stat().st_mode & 0o777


@pytest.mark.parametrize("selected", ["nobody", " "])
@pytest.mark.parametrize(
    ("option", "there"), [("--user", "alice"), ("--agent", "chef"), ("--run", "autumn")], ids=["user", "agent", "run"]
)
@pytest.mark.parametrize("command", ["export --from get_all.json", "replay", "replay --dry-run", "replay --preview 1"])
def test_an_owner_that_nobody_is_gets_exit_code_2_and_those_that_are_there(
    command: str,
    option: str,
    there: str,
    selected: str,
    configured: RunningServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_raw(Path("get_all.json"), [memory(1, "alice", agent_id="chef", run_id="autumn")])
    assert 0 == run(["export", "--from", "get_all.json", "-q"])
    before = Path("dump/manifest.json").read_bytes()
    capsys.readouterr()
    assert 2 == run([*command.split(), option, selected])
    message = error_shown(capsys)
    assert (there if selected == "nobody" else "'alice'") in message
    assert not Path(".spectron-migrate").exists()
    assert before == Path("dump/manifest.json").read_bytes()


@pytest.mark.parametrize("selected", ["nobody", ""])
@pytest.mark.parametrize("dump", [True, False])
def test_a_verification_of_nobody_is_refused(
    selected: str, dump: bool, configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["replay", "--dump", one_memory(user), "-q"])
    given = ["--dump", "get_all.json"] if dump else []
    capsys.readouterr()
    assert 2 == run(["dual-verify", "--user", selected, *given])
    assert ((user if dump else "nobody") if selected else "empty") in error_shown(capsys)
    assert not Path(".spectron-migrate/dual-verify-some.json").exists()


def test_export_keeps_a_user_that_mem0_no_longer_has(configured: RunningServer, user: str) -> None:
    other = f"{user}-other"
    write_raw(Path("get_all.json"), [memory(1, user), memory(2, other)])
    assert 0 == run(["export", "--from", "get_all.json", "-q"])
    write_raw(Path("get_all.json"), [memory(1, user)])
    assert 0 == run(["export", "--from", "get_all.json", "--user", other, "-q"])


def test_a_user_whose_memories_were_all_deleted_can_still_be_named(configured: RunningServer, user: str) -> None:
    other = f"{user}-other"
    write_raw(Path("get_all.json"), [memory(1, user), memory(2, other)])
    assert 0 == run(["export", "--from", "get_all.json"])
    assert 0 == run(["replay"])
    write_raw(Path("get_all.json"), [memory(2, other)])
    assert 0 == run(["export", "--from", "get_all.json"])
    assert 0 == run(["replay", "--user", user])


@pytest.mark.parametrize("module", ["starlette", "wordllama"])
def test_a_rehearsal_without_its_extra_says_how_to_get_it(module: str) -> None:
    script = (
        f"import sys; sys.modules['{module}'] = None;"
        "from spectron_migrate.cli.app import run; sys.exit(run(['rehearse', '--json']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    error = json.loads(ended.stdout)["error"]
    assert 2 == ended.returncode
    assert module in error["message"]
    assert "pip install 'spectron-migrate[local]'" == error["hint"]


def test_the_next_command_is_one_that_this_shell_finds(configured: RunningServer, user: str) -> None:
    program = Path(sys.executable).with_name("spectron-migrate")
    ended = subprocess.run(
        [program, "replay", "--dump", one_memory(user), "--dry-run", "--json"],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert json.loads(ended.stdout)["next"].startswith(f"{program} replay")


def test_a_command_without_its_extra_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; sys.modules['starlette'] = None; sys.modules['uvicorn'] = None;"
        "from spectron_migrate.cli.app import run; sys.exit(run(['local', '--port', '0']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert 2 == ended.returncode
    assert "" == ended.stdout
    assert "spectron-migrate[local]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_memory_text_is_never_markup_and_never_an_escape(
    configured: RunningServer, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    hostile = f"[bold red]{user}[/] \x1b[2J\x1b]0;title\x07 <script>"
    rows = [memory(1, user, hostile), {"id": "\x1b[31mred[/red]", "memory": "", "user_id": user}]
    write_raw(Path("hostile.json"), rows)
    assert 0 == run(["replay", "--dump", "hostile.json", "-v"])
    assert 0 == run(["export", "--from", "hostile.json"])
    out, err = capsys.readouterr()
    assert "\x1b[2J" not in out + err
    assert "\x1b]0" not in out + err
    assert "\x1b[31mred" not in out + err
    assert hostile == turns_of(configured, user)[0].content
