"""An application of Mem0's for the tests: run as a process of its own, told what to do on standard input.

Usage: python -m tests.mem0.app CONFIG.json; each line of input is a JSON list `[call, arguments…]`, each
answer a line of JSON. `serve` does the same at the end of a pipe. Its embeddings come from a hash: real enough to
store, and nothing to download.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DIMS = 16


def embedding_class() -> type:
    """Called only after mem0 was imported."""
    from mem0.embeddings.base import EmbeddingBase

    class HashEmbedding(EmbeddingBase):
        def embed(self, text: str, memory_action: str | None = None) -> list[float]:
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            return [byte / 255 + 0.01 for byte in digest[:DIMS]]

        def embed_batch(self, texts: list[str], memory_action: str = "add") -> list[list[float]]:
            return [self.embed(text) for text in texts]

    return HashEmbedding


def __getattr__(name: str) -> Any:
    if name == "HashEmbedding":
        return embedding_class()
    raise AttributeError(name)


def config(folder: Path, provider: str = "qdrant", **store: Any) -> dict[str, Any]:
    """A configuration whose store and history lie in `folder`."""
    settings = {"collection_name": "mem0", "path": str(folder / "store"), "embedding_model_dims": DIMS, **store}
    return {
        "vector_store": {
            "provider": provider,
            "config": {name: value for name, value in settings.items() if value is not None},
        },
        "embedder": {"provider": "lmstudio", "config": {"embedding_dims": DIMS}},
        "llm": {"provider": "openai", "config": {"api_key": "unused", "model": "unused"}},
        "history_db_path": str(folder / "history.db"),
    }


def main() -> None:
    with opened(sys.argv[1]) as memory:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            call, *arguments = json.loads(line)
            print(json.dumps(answer(memory, call, arguments), default=str), flush=True)


def serve(path: str, orders: Any) -> None:
    """The same calls from a pipe, until its other end is closed."""
    with opened(path) as memory, suppress(EOFError):
        orders.send(json.dumps("ready"))
        while True:
            call, *arguments = json.loads(orders.recv())
            orders.send(json.dumps(answer(memory, call, arguments), default=str))


@contextmanager
def opened(path: str) -> Iterator[Any]:
    from mem0 import Memory
    from mem0.utils.factory import EmbedderFactory

    EmbedderFactory.provider_to_class["lmstudio"] = "tests.mem0.app.HashEmbedding"
    memory = Memory.from_config(json.loads(Path(path).read_text()))
    yield memory
    getattr(memory.vector_store, "client", sys.stdin).close()


def answer(memory: Any, call: str, arguments: list[Any]) -> Any:
    if call == "add":
        text, options = arguments
        return [row["id"] for row in memory.add(text, infer=False, **options)["results"]]
    if call == "churn":  # many calls at once, so that a reader meets them in the middle of its work
        return [churn(memory, number) for number in range(*arguments)]
    if call == "all":
        return [{"id": str(row.id), "payload": row.payload} for row in memory.vector_store.list(None, top_k=10**6)[0]]
    return getattr(memory, call)(*arguments)


def churn(memory: Any, number: int) -> str:
    [made] = memory.add(f"churned {number}", user_id="churn", infer=False)["results"]
    if number % 3 == 1:
        memory.update(made["id"], f"churned {number} again")
    return str(made["id"])


if __name__ == "__main__":
    main()
