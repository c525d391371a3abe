"""`next:` can be pasted into a shell: in each state of the world the command that it names runs and helps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from spectron_migrate.cli.app import build_app
from spectron_migrate.cli.next_line import TAKES, complete_commands
from spectron_migrate.local.testing import RunningServer
from tests.cli.support import environment_for
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.command import command
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, turns_of, write_raw
from tests.verify.support import tampering

pytestmark = pytest.mark.slow
PROGRAMS = Path(sys.executable).parent
AT = "2026-01-01T00:00:00+00:00"


@dataclass
class Shell:
    """A shell in a directory, with the Spectron of its environment."""

    folder: Path
    environment: dict[str, str]
    path: str = f"{PROGRAMS}:/usr/bin:/bin"
    is_real: bool = False
    """Whether it is bash; else a line is divided into words as bash does it, and the command runs in this process."""

    def enter(self, line: str) -> tuple[int, str]:
        """The exit code, and what is on the screen."""
        environment = {**self.environment, "PATH": self.path, "COLUMNS": "200"}
        if not self.is_real:
            program, *words = shlex.split(line)
            assert "spectron-migrate" == program
            here = command(self.folder, *words, environment=environment)
            return here.returncode, here.stdout + here.stderr
        ended = subprocess.run(
            ["/bin/bash", "-c", line],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return ended.returncode, ended.stdout

    def next_after(self, line: str, code: int = 0) -> str:
        """The command that is named after this one."""
        found, screen = self.enter(line)
        assert code == found, screen
        named = re.search(r"^next: (.*)$", screen, re.MULTILINE)
        assert named, screen
        return named[1]


@pytest.fixture
def shell(spectron: RunningServer, tmp_path: Path) -> Shell:
    return Shell(tmp_path, environment_for(spectron))


def test_from_an_export_to_the_verdict_only_by_pasting(shell: Shell, user: str) -> None:
    shell.is_real = True
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    where = "--state 'my state'"
    line = shell.next_after(f"spectron-migrate export --from all.json --dump 'my dump' {where}")
    assert f"spectron-migrate replay {where} --dump 'my dump' --dry-run" == line
    line = shell.next_after(line)
    assert f"spectron-migrate replay {where} --dump 'my dump'" == line
    line = shell.next_after(line)
    assert f"spectron-migrate dual-verify {where} --dump 'my dump'" == line
    code, screen = shell.enter(line)
    assert code in (0, 5), screen
    assert "Verdict" in screen


def test_a_run_that_stopped_goes_on_with_its_dump_its_pace_and_its_state(
    shell: Shell, spectron: RunningServer, user: str
) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(6)])
    line = shell.next_after(
        "spectron-migrate replay --dump all.json --state s --max-rps 200 --max-in-flight 2 --limit 2", 8
    )
    assert "spectron-migrate replay --state s --dump all.json --max-in-flight 2 --max-rps 200" == line
    assert line == shell.next_after("spectron-migrate status --state s")
    assert 0 == shell.enter(line)[0]
    assert 6 == len(turns_of(spectron, user))


def test_status_in_another_directory_names_the_dump_of_the_last_run(shell: Shell, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 8 == shell.enter("spectron-migrate replay --dump all.json --limit 1")[0]
    (shell.folder / "elsewhere").mkdir()
    state = shell.folder / ".spectron-migrate"
    shell.folder /= "elsewhere"
    line = shell.next_after(f"spectron-migrate status --state {state}")
    assert str(shell.folder.parent / "all.json") in line
    assert 0 == shell.enter(line)[0]


def test_refused_memories_are_sent_again(
    shell: Shell, spectron: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])

    def refuse(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse) as proxy:
        good = shell.environment
        shell.environment = {**good, "SPECTRON_ENDPOINT": proxy.base_url}
        assert "spectron-migrate status" == shell.next_after("spectron-migrate replay --dump all.json", 3)
        line = shell.next_after("spectron-migrate status")
        assert "spectron-migrate replay --dump all.json --retry-failed" == line
        proxy.choose = lambda seen: "none"
        assert 0 == shell.enter(line)[0]
    assert 3 == len(turns_of(spectron, user))


def test_a_person_chooses_among_commands_that_can_be_pasted(shell: Shell, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(1, user, "likes tea")])
    assert 0 == shell.enter("spectron-migrate replay --dump all.json")[0]
    write_raw(shell.folder / "all.json", [memory(1, user, "likes coffee")])
    line = shell.next_after("spectron-migrate replay --dump all.json", 3)
    assert "spectron-migrate status" == line
    _, screen = shell.enter(line)
    assert "next:" not in screen
    newer, older = re.findall(r"^  (spectron-migrate replay .*?=\w+)    ", screen, re.MULTILINE)
    assert older.endswith("=older")
    assert 0 == shell.enter(newer)[0]


def test_a_program_that_is_not_on_the_path_is_named_by_its_own(shell: Shell, user: str) -> None:
    shell.is_real = True
    write_raw(shell.folder / "all.json", [memory(1, user)])
    shell.path = "/usr/bin:/bin"
    line = shell.next_after(f"{PROGRAMS}/spectron-migrate replay --dump all.json --dry-run")
    assert f"{PROGRAMS}/spectron-migrate replay --dump all.json" == line
    assert 0 == shell.enter(line)[0]
    line = shell.next_after(f"{sys.executable} -m spectron_migrate status")
    assert f"{sys.executable} -m spectron_migrate dual-verify --dump all.json" == line
    assert shell.enter(line)[0] in (0, 5)


def test_a_cutover_names_one_step_after_the_other(shell: Shell, user: str) -> None:
    row = point(uuid(1), data=f"{user} likes tea", user_id=user, created_at=AT, hash="x")
    write_store(shell.folder / "mem0", [(key_of(uuid(1)), row)])
    config = {"vector_store": {"provider": "qdrant", "config": {"path": str(shell.folder / "mem0" / "store")}}}
    settings = {"version": 1, "mem0": {"oss": {"config": "mem0.json"}}, "cutover": {"settle": "0s"}}
    (shell.folder / "mem0.json").write_text(json.dumps(config))
    (shell.folder / "other.yaml").write_text(json.dumps(settings))
    line = shell.next_after("spectron-migrate cutover start --config other.yaml --state s")
    assert "spectron-migrate replay --config other.yaml --state s --follow" == line
    code, screen = shell.enter(f"{line} --max-seconds 1")
    assert code in (0, 8), screen
    assert line == shell.next_after("spectron-migrate status --config other.yaml --state s")


def test_from_an_empty_directory_to_a_dump_only_by_pasting(shell: Shell, user: str) -> None:
    write_raw(shell.folder / "get_all.json", [memory(number, user) for number in range(3)])
    code, screen = shell.enter("spectron-migrate")
    assert 0 == code
    assert "spectron-migrate init" in screen
    line = shell.next_after("spectron-migrate init")
    assert "spectron-migrate doctor" == line == shell.next_after("spectron-migrate")
    line = shell.next_after(line)
    assert "spectron-migrate export" == line
    line = shell.next_after(line)
    assert "spectron-migrate replay --dry-run" == line == shell.next_after("spectron-migrate doctor")
    assert 0 == shell.enter(line)[0]


def test_a_preview_and_a_replay_of_some_lead_to_the_replay_of_all(
    shell: Shell, spectron: RunningServer, user: str
) -> None:
    write_raw(shell.folder / "all.json", [memory(n, f"{user}{letter}") for letter in "ab" for n in range(2)])
    line = shell.next_after(f"spectron-migrate replay --dump all.json --user {user}a --preview 1")
    assert f"spectron-migrate replay --dump all.json --user {user}a" == line
    assert "spectron-migrate replay --dump all.json" == shell.next_after(line)
    assert 0 == shell.enter("spectron-migrate replay --dump all.json")[0]
    assert 2 == len(turns_of(spectron, f"{user}b"))


def test_what_explain_finds_unsent_is_sent(shell: Shell, spectron: RunningServer, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 8 == shell.enter("spectron-migrate replay --dump all.json --limit 1 --max-rps 100")[0]
    [unsent] = {memory(number, user)["id"] for number in range(3)} - {memory(0, user)["id"], memory(1, user)["id"]}
    line = shell.next_after(f"spectron-migrate explain {unsent}")
    assert "spectron-migrate replay --dump all.json --max-rps 100" == line
    assert line == shell.next_after(f"spectron-migrate explain {unsent} --dump all.json").replace(
        "--dump all.json", "--dump all.json --max-rps 100"
    )
    assert 0 == shell.enter(line)[0]
    assert 3 == len(turns_of(spectron, user))


def test_after_an_erase_everything_is_written_again(shell: Shell, spectron: RunningServer, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 0 == shell.enter("spectron-migrate replay --dump all.json --state s")[0]
    migration = re.search(r"Migration (\w+)", shell.enter("spectron-migrate status --state s")[1])
    assert migration
    scope = f"--scope user/{user} --yes user/{user}"
    line = shell.next_after(f"spectron-migrate erase --state s --migration {migration[1]} {scope}")
    assert "spectron-migrate replay --state s --dump all.json" == line
    assert [] == turns_of(spectron, user)
    assert 0 == shell.enter(line)[0]
    assert 3 == len(turns_of(spectron, user))


def test_a_verification_that_finds_a_memory_missing_leads_to_the_replay_that_sends_it(shell: Shell, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 8 == shell.enter("spectron-migrate replay --dump all.json --limit 1")[0]
    line = shell.next_after("spectron-migrate dual-verify --dump all.json", 4)
    assert "spectron-migrate replay --dump all.json" == line
    assert "spectron-migrate dual-verify --dump all.json" == shell.next_after(line)


def test_where_no_command_mends_a_verdict_its_worst_memory_is_explained(
    shell: Shell, spectron: RunningServer, user: str
) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 0 == shell.enter("spectron-migrate replay --dump all.json")[0]
    changed, gone = memory(1, user), memory(2, user)
    with tampering(spectron) as db:
        db.execute("UPDATE turn SET content = 'Something else' WHERE content = ?", (changed["memory"],))
        db.execute("DELETE FROM turn WHERE content = ?", (gone["memory"],))
    code, screen = shell.enter("spectron-migrate dual-verify --dump all.json")
    assert 4 == code
    assert "stop: Spectron does not hold the texts that were sent. No command fixes that" in screen
    line = shell.next_after("spectron-migrate dual-verify --dump all.json", 4)
    assert f"spectron-migrate explain --dump all.json {changed['id']}" == line
    assert 0 == shell.enter(line)[0]


def test_what_has_vanished_from_spectron_is_looked_for_and_written_again(
    shell: Shell, spectron: RunningServer, user: str
) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 0 == shell.enter("spectron-migrate replay --dump all.json")[0]
    with tampering(spectron) as db:
        db.execute("DELETE FROM turn WHERE content = ?", (memory(2, user)["memory"],))
    line = shell.next_after("spectron-migrate dual-verify --dump all.json", 4)
    assert "spectron-migrate replay --dump all.json --adopt --dry-run" == line
    line = shell.next_after(line)
    assert "spectron-migrate replay --dump all.json --adopt" == line
    assert 0 == shell.enter(line)[0]
    assert 3 == len(turns_of(spectron, user))


def test_memories_in_the_wrong_order_lead_to_what_an_erase_of_their_scope_would_take(
    shell: Shell, spectron: RunningServer, user: str
) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    assert 0 == shell.enter("spectron-migrate replay --dump all.json")[0]
    with tampering(spectron) as db:
        db.execute("UPDATE turn SET seq = seq + 50 WHERE content = ?", (memory(0, user)["memory"],))
    line = shell.next_after("spectron-migrate dual-verify --dump all.json", 4)
    assert re.fullmatch(rf"spectron-migrate erase --migration \w+ --scope user/{user} --dry-run", line)
    code, screen = shell.enter(line)
    assert 0 == code, screen
    assert "Would be erased" in screen


def test_a_rehearsal_with_a_file_leads_to_the_plan_of_its_replay(shell: Shell, user: str) -> None:
    write_raw(shell.folder / "all.json", [memory(number, user) for number in range(3)])
    (shell.folder / "m.yaml").write_text("version: 1\nrules: [{when: {user_id: '*'}, scope: {team: '{user_id}'}}]\n")
    line = shell.next_after("spectron-migrate rehearse --dump all.json --mapping m.yaml")
    assert "spectron-migrate replay --mapping m.yaml --dump all.json --dry-run" == line
    code, screen = shell.enter(line)
    assert 0 == code, screen
    assert "3 memories would be written" in screen


# -- the rule ---------------------------------------------------------------------------------------------------


def test_only_options_are_added_that_the_command_has() -> None:
    known = {str(each.name): each.callback for each in build_app().registered_commands}
    for name, options in TAKES.items():
        function = known[name]
        assert function is not None
        defined = function.__signature__.parameters  # type: ignore[attr-defined]
        for option in options:
            assert option.removeprefix("--").replace("-", "_") in defined


@pytest.mark.parametrize(
    ("command", "completed"),
    [
        ("spectron-migrate replay --follow", "p replay --state s --max-rps 5 --follow"),
        ("spectron-migrate replay --dump x", "p replay --state s --max-rps 5 --dump x"),
        ("spectron-migrate replay", "p replay --state s --dump 'a b' --dump c --max-rps 5"),
        ("spectron-migrate cutover check", "p cutover check --state s"),
        ("export again: spectron-migrate export, then spectron-migrate replay",
         "export again: p export --state s, then p replay --state s --dump 'a b' --dump c --max-rps 5"),
    ],
)  # fmt: skip
def test_what_is_there_already_is_not_added(command: str, completed: str) -> None:
    options = [("--dump", "a b"), ("--dump", "c"), ("--max-rps", "5"), ("--mem0-config", "m")]
    assert completed == complete_commands(command, about=[("--state", "s")], options=options, program="p")
