"""Text to vectors: WordLlama, whose weights come with its package, so that no network and no key is needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spectron_migrate.local.storage import Vector


class Embedder(Protocol):
    """Turns texts into vectors of length 1; a text without a known word becomes all zeros."""

    dimensions: int

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text, in order."""


class WordLlamaEmbedder:
    """256 dimensions; loads in the background, so that the server listens before the weights are there."""

    dimensions = 256

    def __init__(self) -> None:
        """Begin to load."""
        self._weights: Any = None
        self._tokenizer: Any = None
        self._failure: BaseException | None = None
        self._loader = threading.Thread(target=self._load)
        self._loader.start()

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Wait for the weights where they are still loading. Raises what loading raised."""
        self._loader.join()
        if self._failure is not None:
            raise self._failure
        if len(texts) == 1:  # twice as fast as a batch of one
            return [self._mean(self._tokenizer.encode(texts[0], add_special_tokens=False).ids)]
        return [self._mean(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _mean(self, tokens: list[int]) -> Vector:
        """The mean of the tokens' vectors, of length 1: what `WordLlama.embed` gives, without its padding."""
        import numpy as np

        mean: Vector = self._weights[tokens].sum(axis=0) if tokens else np.zeros(self.dimensions, np.float32)
        length = float(mean @ mean) ** 0.5
        return mean / np.float32(length) if length else mean

    def _load(self) -> None:
        try:
            self._weights, self._tokenizer = _wordllama()
        except BaseException as error:  # raised again in `embed`, where somebody can see it
            self._failure = error


def _wordllama() -> tuple[Any, Any]:
    """The weights and the tokenizer out of the installed package.

    The package itself is not imported: it takes as long again as both files, looks for a network, and sets up
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
