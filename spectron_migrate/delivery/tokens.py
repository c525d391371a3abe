"""Estimates what a write costs in tokens, for servers that do not say."""

from __future__ import annotations

STAGE_1_TOKENS = (200, 800)
STAGE_2_TOKENS = (500, 2000)
EMBEDDING_TOKENS = 100
"""Tokens per memory, least and most, as in Spectron's self-hosting guide: extraction in two stages, of which the second
runs only for some turns, and one embedding.
"""
LETTERS_PER_TOKEN = 4


def estimate_tokens(text: str, infer: str) -> tuple[int, int]:
    """Tokens that one memory costs, least and most. A text that is longer than usual counts by its own length."""
    own = len(text) // LETTERS_PER_TOKEN
    embedding = max(EMBEDDING_TOKENS, own)
    if infer == "none":
        return embedding, embedding
    low = max(STAGE_1_TOKENS[0], own)
    high = max(STAGE_1_TOKENS[1], own) + max(STAGE_2_TOKENS[1], own)
    return embedding + low, embedding + high
