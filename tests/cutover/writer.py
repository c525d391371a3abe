"""An application that adds, changes and deletes memories in Mem0 and knows nothing of a migration.

`main` is called in a process of its own. It writes until something comes through its pipe, then tells how often it did
what. Its embeddings are WordLlama's.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

PAUSE_S = 0.5
CALLS = 100
"""After so many calls the pause is twice as long, after two times as many three times as long, and so on: on a slow
machine a test takes longer, and must not have more and more to move meanwhile."""
TOPICS = ("green tea", "the night train to Berlin", "an old tandem", "two grey cats", "the choir on Thursdays")


def main(path: str, name: str, seed: int, orders: Any) -> None:
    from mem0 import Memory
    from mem0.utils.factory import EmbedderFactory

    EmbedderFactory.provider_to_class["lmstudio"] = "spectron_migrate.mem0.wordllama_embedder.WordLlamaEmbedding"
    memory, dice = Memory.from_config(json.loads(Path(path).read_text())), random.Random(seed)
    mine: list[str] = []
    done: Counter[str] = Counter()
    while True:
        done[act(memory, dice, mine, name, sum(done.values()))] += 1
        if done.total() == 1:
            orders.send("writing")
        if orders.poll(PAUSE_S * (1 + done.total() / CALLS)):
            break
    orders.send(dict(done))


def act(memory: Any, dice: random.Random, mine: list[str], name: str, number: int) -> str:
    """Make one random call; returns which."""
    text = f"{name} speaks of {dice.choice(TOPICS)} for the {number}. time"
    chance = dice.random()
    if len(mine) < 3 or chance < 0.6:
        user = dice.choice((name, "everybody"))
        mine += [row["id"] for row in memory.add(text, user_id=user, infer=False)["results"]]
        return "added"
    if chance < 0.85:
        memory.update(dice.choice(mine), text)
        return "changed"
    memory.delete(mine.pop(dice.randrange(len(mine))))
    return "deleted"
