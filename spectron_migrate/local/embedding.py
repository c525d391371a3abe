"""Text embeddings by WordLlama, whose weights come with its package: no network and no key is needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spectron_migrate.local.rows import Vector


class Embedder(Protocol):
    """Turns texts into vectors of length 1; a text without any known word becomes all zeros."""

    dimensions: int

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector per text, in order."""


class WordLlamaEmbedder:
    """256 dimensions; loads in the background, so that the server can listen before the weights are loaded."""

    dimensions = 256

    def __init__(self) -> None:
        self._weights: Any = None
        self._tokenizer: Any = None
        self._failure: BaseException | None = None
        self._loader = threading.Thread(target=self._load)
        self._loader.start()

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts once the weights are loaded. Raises what loading raised."""
        self._loader.join()
        if self._failure is not None:
            raise self._failure
        if len(texts) == 1:  # twice as fast as a batch of one
            return [self._mean(self._tokenizer.encode(texts[0], add_special_tokens=False).ids)]
        return [self._mean(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _mean(self, tokens: list[int]) -> Vector:
        """The normalised mean of the token vectors: what `WordLlama.embed` gives, without its padding."""
        import numpy as np

        mean: Vector = self._weights[tokens].sum(axis=0) if tokens else np.zeros(self.dimensions, np.float32)
        length = float(mean @ mean) ** 0.5
        return mean / np.float32(length) if length else mean

    def _load(self) -> None:
        try:
            self._weights, self._tokenizer = _wordllama()
        except BaseException as error:  # raised again in `embed`, in the caller's thread
            self._failure = error


def _wordllama() -> tuple[Any, Any]:
    """The weights and the tokenizer from the files of the installed package.

    The package itself is not imported: that takes as long as reading both files, looks for a network, and configures
    the logging of the process.
    """
    from importlib.util import find_spec

    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    found = find_spec("wordllama")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("wordllama is not installed: pip install 'spectron-migrate[local]'")
    home = Path(found.origin).parent
    weights = load_file(home / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(home / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    return np.ascontiguousarray(weights, np.float32), tokenizer
