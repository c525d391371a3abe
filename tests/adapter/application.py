"""An application that uses the adapter: its users say things, change their mind, and ask at once for what they said.

`main` is called in a process of its own; it works until the other end of its pipe is closed, and takes `read` (write
nothing more) and `write` from it. Each call is a line of JSON in the log: when it began, what it was, whether it went
well, and whether Spectron answered. Embeddings are WordLlama's. Where `messages` are captured, Mem0 makes two memories
of each.
"""

from __future__ import annotations

import json
import random
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

PAUSE_S = 0.15
TOPICS = ("green tea", "the night train to Berlin", "an old tandem", "two grey cats", "the choir on Thursdays")


class Application:
    """One process of it."""

    def __init__(self, memory: Any, name: str, log: Path, *, extracts: bool) -> None:
        self.memory = memory
        self.extracts = extracts
        self.name = name
        self.log = log.open("a", buffering=1)
        self.dice = random.Random(name)
        self.mine: list[tuple[str, str, str]] = []
        """Id, user and text of what it may change."""

    def work(self, writes: bool) -> None:
        """One thing that an application does."""
        complete = self.memory._core.is_complete()
        chance = self.dice.random() if writes else 1.0
        if chance < 0.3 or (writes and len(self.mine) < 3):
            self.say(self.dice.choice(("everybody", *self.users)))
        elif complete or chance >= 0.45:
            self.ask()
        elif chance < 0.4:
            self.change()
        else:
            self.forget()

    @property
    def users(self) -> tuple[str, ...]:
        """One speaks often; the other only at first, and is asked about all the time."""
        often, seldom = f"{self.name}-often", f"{self.name}-seldom"
        return (often, seldom) if len(self.mine) < 3 else (often,)

    def say(self, user: str) -> None:
        verbs = ("speaks", "dreams") if self.extracts else ("speaks",)
        text = ". ".join(f"{self.name} {verb} of {self.dice.choice(TOPICS)} {uuid.uuid4().hex[:10]}" for verb in verbs)
        made: list[dict[str, Any]] = []  # stays empty if the call raises, which `told` has noted then
        with self.told("add", user=user, text=text) as row:
            made = self.memory.add(text, user_id=user, infer=self.extracts)["results"]
            row["ids"] = [each["id"] for each in made]
            self.mine += [(each["id"], user, each["memory"]) for each in made]
        for each in made:
            self.find(user, each["memory"], there=True)

    def change(self) -> None:
        place = self.dice.randrange(1, len(self.mine))
        memory_id, user, old = self.mine[place]
        new = f"{self.name} rather speaks of {self.dice.choice(TOPICS)} {uuid.uuid4().hex[:10]}"
        with self.told("update", id=memory_id, user=user, text=new):
            self.memory.update(memory_id, text=new)
            self.mine[place] = (memory_id, user, new)
        self.find(user, new, there=True)
        self.find(user, old, there=False)

    def forget(self) -> None:
        memory_id, user, text = self.mine.pop(self.dice.randrange(1, len(self.mine)))
        with self.told("delete", id=memory_id, user=user):
            self.memory.delete(memory_id)
        self.find(user, text, there=False)

    def ask(self) -> None:
        self.find(self.dice.choice((f"{self.name}-often", f"{self.name}-seldom")), self.dice.choice(TOPICS))

    def find(self, user: str, query: str, *, there: bool | None = None) -> None:
        before = self.from_spectron()
        with self.told("search", user=user) as row:
            found = self.memory.search(query, filters={"user_id": user}, top_k=50)["results"]
            row["spectron"] = self.from_spectron() > before
            row["found"] = there is None or there == any(each["memory"] == query for each in found)

    def from_spectron(self) -> int:
        return int(self.memory._core.counters.snapshot()["reads"].get("spectron", 0))

    def told(self, what: str, **more: Any) -> Told:
        return Told(self, {"at": time.time(), "what": what, **more})


class Told:
    """A line of the log, written however the call ends."""

    def __init__(self, application: Application, row: dict[str, Any]) -> None:
        self.application = application
        self.row = row

    def __enter__(self) -> dict[str, Any]:
        return self.row

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        from spectron_migrate import NotInSpectron

        row = {**self.row, "took": time.time() - self.row["at"]}
        row["error"] = None if error is None else f"{type(error).__name__}: {error}"
        row["trace"] = [] if error is None else traceback.format_exception(error)
        row["refused"] = isinstance(error, NotInSpectron)
        self.application.log.write(json.dumps(row) + "\n")
        return isinstance(error, Exception)


def main(path: str, name: str, log: str, capture: str, orders: Any) -> None:
    from mem0 import Memory
    from mem0.utils.factory import EmbedderFactory

    from spectron_migrate import MemoryAdapter
    from tests.adapter.extracting import Extracting

    EmbedderFactory.provider_to_class["lmstudio"] = "spectron_migrate.mem0.wordllama_embedder.WordLlamaEmbedding"
    memory = MemoryAdapter(Extracting(Memory.from_config(json.loads(Path(path).read_text()))))
    application, writes = Application(memory, name, Path(log), extracts=capture == "messages"), True
    application.say(f"{name}-seldom")
    orders.send("at work")
    while True:
        if orders.poll(PAUSE_S):
            try:
                writes = orders.recv() == "write"
            except EOFError:
                break
            orders.send("heard")
        application.work(writes)
    memory._core.close()
