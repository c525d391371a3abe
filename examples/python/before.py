"""An assistant whose memory is in Mem0. Usage: python before.py USER TEXT"""

import json
import sys
from pathlib import Path

from mem0 import Memory


def reply(memory: Memory, user: str, text: str) -> list[str]:
    """What is known about the text; the text itself is remembered."""
    found = memory.search(text, filters={"user_id": user}, top_k=3)
    memory.add(text, user_id=user, infer=False)
    return [each["memory"] for each in found["results"]]


if __name__ == "__main__":
    memory = Memory.from_config(json.loads(Path("mem0.json").read_text(encoding="utf-8")))
    print("\n".join(reply(memory, sys.argv[1], sys.argv[2])))
