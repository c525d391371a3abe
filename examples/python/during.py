"""The same assistant while it moves; nothing else changes. Usage: python during.py USER TEXT"""

import json
import sys
from pathlib import Path

from mem0 import Memory

from spectron_migrate import MemoryAdapter


def reply(memory: MemoryAdapter, user: str, text: str) -> list[str]:
    """What is known about the text; the text itself is remembered."""
    found = memory.search(text, filters={"user_id": user}, top_k=3)
    memory.add(text, user_id=user, infer=False)
    return [each["memory"] for each in found["results"]]


if __name__ == "__main__":
    mem0 = Memory.from_config(json.loads(Path("mem0.json").read_text(encoding="utf-8")))
    with MemoryAdapter(mem0, state=".spectron-migrate") as memory:
        print("\n".join(reply(memory, sys.argv[1], sys.argv[2])))
