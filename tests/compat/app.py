"""An application on any Mem0 from 0.1 to 2: fills a store as applications do, holds it open, goes on writing.

Usage: python -m tests.compat.app CONFIG.json; each line of input is a JSON list `[call, arguments…]`, each
answer a line of JSON. It runs with whatever mem0ai its interpreter has.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import select
import sys
import time
from pathlib import Path
from typing import Any

VERSION = importlib.metadata.version("mem0ai")
IS_V2 = int(VERSION.split(".")[0]) >= 2
TOPICS = ("drink", "city", "database", "hobby", "food")


class Application:
    """One process of a user's, with its Mem0."""

    def __init__(self, config: dict[str, Any]) -> None:
        from mem0 import Memory
        from mem0.utils.factory import EmbedderFactory

        EmbedderFactory.provider_to_class["lmstudio"] = "tests.mem0.app.HashEmbedding"
        self.memory = Memory.from_config(config)
        self.texts: dict[str, str] = {}

    def add(self, text: str, **options: Any) -> str:
        answer = self.memory.add(text, infer=False, **options)
        [made] = answer["results"] if isinstance(answer, dict) else answer
        self.texts[made["id"]] = made["memory"]
        return str(made["id"])

    def update(self, memory_id: str, text: str) -> None:
        self.memory.update(memory_id, text)
        self.texts[memory_id] = text

    def delete(self, memory_id: str) -> None:
        self.memory.delete(memory_id)
        del self.texts[memory_id]

    def build(self, rows: int) -> None:
        """Plain rows and odd ones of three users, some edited and some deleted again."""
        made = [self.add(**row) for user in ("alice", "bob", "carol") for row in rows_of(user, rows)]
        odd: list[tuple[str, dict[str, Any]]] = [
            ("Agent-only memory: always answer in French", {"agent_id": "solo-agent"}),
            ("Run-only memory: the build failed at step 3", {"run_id": "solo-run"}),
            ("Líne one\nline two — ünïcode 日本語 🙂\t\x07", {"user_id": "alice"}),
            ("long " + "x" * 5000, {"user_id": "alice"}),
            ("exact duplicate", {"user_id": "alice"}),
            ("exact duplicate", {"user_id": "alice"}),
            ("named like fields", {"user_id": "alice", "metadata": {"id": "x", "score": 1, "text": "y", "memory": 2}}),
            ("a day of old", {"user_id": "alice", "metadata": {"created_at": "2019-05-06T07:08:09+02:00"}}),
        ]
        if not IS_V2:
            odd.append(("an id with a space", {"user_id": "anna maria"}))
        for text, options in odd:
            self.add(text, **options)
        for number, memory_id in enumerate(made):
            if number % 17 == 5:
                self.update(memory_id, f"changed to decaf #{number}")
            if number % 23 == 7:
                self.delete(memory_id)

    def raw(self) -> list[dict[str, Any]]:
        """Everything in the store as it stands there."""
        answer = self.memory.vector_store.list(None, **{"top_k" if IS_V2 else "limit": 10**6})
        rows = answer[0] if isinstance(answer[0], list) else answer
        return [{"id": str(row.id), "payload": row.payload} for row in rows]

    def write(self) -> dict[str, Any]:
        """Add, edit and delete until the next line of input; every call with its time, and what it raised."""
        chosen = random.Random(7)
        mine: list[str] = []
        calls: list[dict[str, Any]] = []
        print(json.dumps("writing"), flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            what = chosen.choice(("add", "add", "update", "delete")) if len(mine) > 20 else "add"
            text = f"{what} number {len(calls)}"
            call: dict[str, Any] = {"what": what, "began": time.monotonic(), "text": text, "error": None}
            try:
                if what == "add":
                    mine.append(self.add(text, user_id=f"user-{len(calls) % 7}"))
                    call["id"] = mine[-1]
                elif what == "update":
                    call["id"] = chosen.choice(mine)
                    self.update(call["id"], text)
                else:
                    call["id"] = mine.pop(chosen.randrange(len(mine)))
                    self.delete(call["id"])
            except Exception as error:
                call["error"] = repr(error)
            call["ended"] = time.monotonic()
            calls.append(call)
        return {"calls": calls, "texts": self.texts}


def rows_of(user: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        metadata = {"topic": topic, "seq": number, "tags": ["import", topic], "nested": {"a": number % 3}}
        row: dict[str, Any] = {
            "text": f"{user.title()} and {topic}, note {number}",
            "user_id": user,
            "metadata": {**metadata, "priority": number / 10, "flag": number % 2 == 0},
        }
        row |= {"agent_id": f"agent{number % 3}"} if number % 4 == 1 else {}
        row |= {"run_id": f"run-{number // 50}"} if number % 5 == 2 else {}
        if IS_V2 and number % 10 in (7, 8):
            row["expiration_date"] = "2020-01-01" if number % 10 == 7 else "2099-12-31"
        rows.append(row)
    return rows


def main() -> None:
    application = Application(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(VERSION), flush=True)
    for line in iter(sys.stdin.readline, ""):
        call, *arguments = json.loads(line)
        if call == "stop":
            continue
        print(json.dumps(getattr(application, call)(*arguments), default=str), flush=True)
    getattr(application.memory.vector_store, "client", sys.stdin).close()


if __name__ == "__main__":
    main()
