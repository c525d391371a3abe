"""Embeddings without a key or a network: WordLlama, whose weights are part of its wheel.

Mem0 constructs this class by its name, see `offline_embedder` in `mem0/search.py`. Nothing of Mem0 is imported here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from spectron_migrate.errors import InputError

DIMENSIONS = 256


class WordLlamaEmbedding:
    """An embedder for Mem0, which needs `embed`, `embed_batch` and a `config` with `embedding_dims`."""

    def __init__(self, config: Any = None) -> None:
        """Load the model; raises InputError if the extra `local` is not installed."""
        self.config = config
        if config is not None:
            config.model = "wordllama"
            config.embedding_dims = DIMENSIONS
        self._model = _load()

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """The vector of a text, of length 1; all zeros if the text has no token."""
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = "add") -> list[list[float]]:
        """One vector for each text."""
        if not texts:
            return []
        import numpy as np

        vectors: list[list[float]] = np.nan_to_num(self._model.embed(list(texts), norm=True)).tolist()
        return vectors


@cache
def _load() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        import wordllama
    except ModuleNotFoundError as error:
        raise InputError(
            "the offline embeddings are not installed", hint="pip install 'spectron-migrate[local]'"
        ) from error
    finally:
        # Importing it configures logging for the whole process, and then every library prints
        root.handlers[:] = handlers
        root.setLevel(level)
    # The tokenizer is part of the wheel too, but WordLlama would first look in a cache and then on a hub
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
