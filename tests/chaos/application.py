"""An application of the play of `several_hosts`: its users say things, change their mind and ask, through the adapter.

Usage: python -m tests.chaos.application CONFIG.json NAME LOG PAUSE_S; it ends with SIGTERM. Each call is two lines of
JSON in LOG, one before it and one after it, so that of a process that was killed it is known what it was doing. Begun
again under its name, it goes on with what it may change according to the log.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

USERS = 4
TOPICS = ("green tea", "the night train", "an old tandem", "two grey cats", "the choir on Thursdays")


class Application:
    """One process of it."""

    def __init__(self, memory: Any, name: str, log: Path) -> None:
        self.memory = memory
        self.name = name
        self.mine = owned(read_calls(log))
        self.log = log.open("a", buffering=1)
        self.is_over = False

    def stop(self, *_: object) -> None:
        self.is_over = True

    def work(self) -> None:
        """One thing that an application does."""
        chance = random.random()
        if chance < 0.5 or len(self.mine) < 3:
            user = f"{self.name}-user-{random.randrange(USERS)}"
            text = self.text()
            made = self.call("add", user, text=text, do=lambda: self.memory.add(text, user_id=user, infer=False))
            self.mine |= {each["id"]: user for each in (made or {"results": []})["results"]}
        elif chance < 0.7:
            memory_id, user = random.choice(list(self.mine.items()))
            text = self.text()
            self.call("update", user, id=memory_id, text=text, do=lambda: self.memory.update(memory_id, text=text))
        elif chance < 0.8:
            memory_id, user = random.choice(list(self.mine.items()))
            del self.mine[memory_id]
            self.call("delete", user, id=memory_id, do=lambda: self.memory.delete(memory_id))
        else:
            user, query = f"{self.name}-user-{random.randrange(USERS)}", random.choice(TOPICS)
            self.call("search", user, do=lambda: self.memory.search(query, filters={"user_id": user}))

    def text(self) -> str:
        return f"{self.name} speaks of {random.choice(TOPICS)} {uuid.uuid4().hex[:12]}"

    def call(self, what: str, user: str, *, do: Any, **about: Any) -> Any:
        number = uuid.uuid4().hex
        self.note(number=number, what=what, user=user, **about)
        began = time.monotonic()
        try:
            answer = do()
        except Exception as error:
            self.note(number=number, error=f"{type(error).__name__}: {error}", took=time.monotonic() - began)
            return None
        ids = [each["id"] for each in answer["results"]] if what == "add" else []
        self.note(number=number, error=None, took=time.monotonic() - began, ids=ids)
        return answer

    def note(self, **line: Any) -> None:
        self.log.write(json.dumps({"at": time.time(), **line}) + "\n")


def read_calls(log: Path) -> list[dict[str, Any]]:
    """Calls in their order; one without `error` was cut off: what became of it is in doubt."""
    calls: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines(keepends=True) if log.exists() else ():
        if line.endswith("\n"):
            row = json.loads(line)
            calls.setdefault(row["number"], {}).update({name: value for name, value in row.items() if name != "at"})
            calls[row["number"]].setdefault("at", row["at"])
    return list(calls.values())


def owned(calls: list[dict[str, Any]]) -> dict[str, str]:
    """The memories that were added and not deleted, and their users."""
    found: dict[str, str] = {}
    for call in calls:
        found |= dict.fromkeys(call.get("ids", ()), call["user"])
        if call["what"] == "delete":
            found.pop(call["id"], None)
    return found


def main() -> None:
    from mem0 import Memory
    from mem0.utils.factory import EmbedderFactory

    from spectron_migrate import MemoryAdapter

    EmbedderFactory.provider_to_class["lmstudio"] = "tests.mem0.app.HashEmbedding"
    path, name, log, pause_s = sys.argv[1:]
    memory = MemoryAdapter(Memory.from_config(json.loads(Path(path).read_text())))
    # A process that has never seen the routing refuses writes, because the cutover may be complete. Like a service that
    # is not ready yet, it takes calls only once it has.
    while memory._core.routing.unreadable is not None:
        time.sleep(0.1)
    application = Application(memory, name, Path(log))
    signal.signal(signal.SIGTERM, application.stop)
    while not application.is_over:
        application.work()
        time.sleep(float(pause_s))
    memory._core.close()


if __name__ == "__main__":
    main()
