"""Checks that an export beside any Mem0 is complete and changes nothing.

Usage: python -m tests.compat.check [VERSION…] [--work DIR] [--rows N] [--seconds N]

For each version of mem0ai (0.1.118, 1.0.11 and 2.2.1 unless named) it makes a virtual environment with that
version and this project in it, lets a real application of that version fill a store whose configuration does
not say `on_disk`, and exports it with the command line of the same environment: while the application only
holds the store open, while it writes, and after it has gone. Nothing is simulated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.mem0.app import config

VERSIONS = ("0.1.118", "1.0.11", "2.2.1")
ROOT = Path(__file__).parent.parent.parent
FIELDS = ("user_id", "agent_id", "run_id", "actor_id", "role", "hash")
TIMES = ("created_at", "updated_at")
IN_EXTRA = ("text_lemmatized", "attributed_to")


@dataclass
class Setup:
    """The environment of one check: an interpreter with its mem0ai, and a folder for the user's store."""

    python: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "MEM0"))}
        home = str(self.folder / "home")
        return {**kept, "HOME": home, "MEM0_DIR": f"{home}/.mem0", "MEM0_TELEMETRY": "False", "PYTHONPATH": str(ROOT)}

    def export(self, dump: str) -> dict[str, Any]:
        """The command line's own answer, and when it began and ended."""
        command = [self.python, "-W", "ignore", "-m", "spectron_migrate", "export", "--json", "--history"]
        command += ["--mem0-config", str(self.folder / "user" / "mem0.json"), "--dump", str(self.folder / dump)]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=self.folder)
        result: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == result["exit_code"], done.stderr
        return {**result, "began": began, "ended": time.monotonic()}

    def memories(self, dump: str) -> dict[str, dict[str, Any]]:
        lines = (self.folder / dump / "memories.jsonl").read_text("utf-8").split("\n")
        return {row["id"]: row for row in map(json.loads, filter(None, lines))}

    def fingerprint(self) -> dict[str, Any]:
        """Every file and folder of the user's: content, size, rights, and when it was last changed in any way."""
        below = sorted([*(self.folder / "user").rglob("*"), *(self.folder / "home").rglob("*")])
        return {str(path): _fingerprint(path) for path in below}


class RunningApplication:
    """The application's process."""

    def __init__(self, setup: Setup) -> None:
        settings = config(setup.folder / "user")
        assert "on_disk" not in settings["vector_store"]["config"]
        (setup.folder / "home").mkdir()
        (setup.folder / "user").mkdir()
        (setup.folder / "user" / "mem0.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            [
                setup.python,
                "-W",
                "ignore",
                "-m",
                "tests.compat.app",
                str(setup.folder / "user" / "mem0.json"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=setup.environment,
        )
        self.version = self.answer()

    def __call__(self, *call: Any) -> Any:
        self.tell(*call)
        return self.answer()

    def tell(self, *call: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def check(setup: Setup, *, rows: int, seconds: float) -> str:
    """Run the check; returns a one-line summary, raises AssertionError with the difference."""
    application = RunningApplication(setup)
    try:
        application("build", rows)
        stored = application("raw")
        before = setup.fingerprint()
        quiet = setup.export("quiet")
        assert before == setup.fingerprint(), _difference(before, setup.fingerprint())
        same_rows(stored, setup.memories("quiet"))
        assert (True, len(stored), len(stored)) == (quiet["complete"], quiet["native_count"], quiet["memories"]), quiet

        exports = _while_it_writes(setup, application, seconds)
        written = application.answer()
        assert [] == [call for call in written["calls"] if call["error"]]
        for number, export in enumerate(exports):
            _possible(written["calls"], export, setup.memories(f"busy-{number}"), {row["id"] for row in stored})
        after = application("raw")
        assert written["texts"] == {row["id"]: row["payload"]["data"] for row in after}
    finally:
        application.close()

    before = setup.fingerprint()
    closed = setup.export("quiet")
    assert before == setup.fingerprint(), _difference(before, setup.fingerprint())
    same_rows(after, setup.memories("quiet"))
    gone = {row["id"] for row in stored} - {row["id"] for row in after}
    assert closed["complete"]
    assert len(gone) == closed["deleted"]
    again = setup.export("quiet")
    assert (0, 0, 0) == (again["new"], again["changed"], again["deleted"]), again
    slowest = max(call["ended"] - call["began"] for call in written["calls"])
    return (
        f"mem0ai {application.version}: {len(stored)} rows while it held them, {len(after)} after "
        f"{len(written['calls'])} writes beside {len(exports)} exports: 0 missing, 0 altered, 0 invented, "
        f"0 errors for the application (slowest write {slowest * 1000:.0f} ms), no byte or time of its files changed"
    )


def _while_it_writes(setup: Setup, application: RunningApplication, seconds: float) -> list[dict[str, Any]]:
    application.tell("write")
    assert "writing" == application.answer()
    exports: list[dict[str, Any]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or not exports:
        exports.append(setup.export(f"busy-{len(exports)}"))
        assert (True, 0) == (exports[-1]["complete"], exports[-1]["exit_code"]), exports[-1]
    application.tell("stop")
    return exports


def same_rows(stored: list[dict[str, Any]], exported: dict[str, dict[str, Any]]) -> None:
    """The export equals the store, row by row and field by field."""
    assert {row["id"] for row in stored} == set(exported)
    for row in stored:
        rest, memory = dict(row["payload"]), exported[row["id"]]
        assert rest.pop("data") == memory["memory"]
        for name in FIELDS:
            assert rest.pop(name, None) == memory[name], (name, row)
        for name in TIMES:
            given = rest.pop(name, None)
            stood = memory[name]
            assert (given and datetime.fromisoformat(given)) == (stood and datetime.fromisoformat(stood)), (name, row)
        assert rest.pop("expiration_date", None) == memory["expiration_date"], row
        for name in IN_EXTRA:
            assert rest.pop(name, None) == memory["extra"].get(name), (name, row)
        assert rest == memory["metadata"], row


def _possible(
    calls: list[dict[str, Any]], export: dict[str, Any], exported: dict[str, dict[str, Any]], known: set[str]
) -> None:
    """Each memory exported beside a writer is one that the store held at some moment during the export."""
    states: dict[str, list[tuple[float, float, str | None]]] = {}
    for call in calls:
        text = None if call["what"] == "delete" else call["text"]
        states.setdefault(call["id"], []).append((call["began"], call["ended"], text))
    assert set(exported) <= set(states) | known
    for memory_id, changes in states.items():
        before = [text for _, ended, text in changes if ended < export["began"]]
        during = [text for began, ended, text in changes if ended >= export["began"] and began <= export["ended"]]
        possible = {*(before[-1:] or [None]), *during}
        found = exported[memory_id]["memory"] if memory_id in exported else None
        assert found in possible, (memory_id, found, possible)


def _fingerprint(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return content, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def interpreter(version: str, work: Path) -> Path:
    """A virtual environment with this version of mem0ai and this project, created if it is missing."""
    python = work / f"venv-{version}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"mem0ai=={version}", str(ROOT)], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--work", type=Path, help="keep the virtual environments here for the next time")
    parser.add_argument("--rows", type=int, default=200, help="of each of three users")
    parser.add_argument("--seconds", type=float, default=15.0, help="of writing beside exports")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compat-") as scratch:
        work = asked.work or Path(scratch)
        for version in asked.versions:
            folder = Path(scratch) / version
            folder.mkdir()
            began = datetime.now(UTC)
            line = check(Setup(interpreter(version, work), folder), rows=asked.rows, seconds=asked.seconds)
            print(f"{line} ({(datetime.now(UTC) - began).seconds} s)", flush=True)


if __name__ == "__main__":
    main()
