"""What a write costs in tokens, where the server does not say: an estimate."""

from __future__ import annotations

STAGE_1_TOKENS = (200, 800)
STAGE_2_TOKENS = (500, 2000)
EMBEDDING_TOKENS = 100
"""Tokens a memory, as Spectron's self-hosting guide gave them: extraction in two stages, of which the second runs
only for some turns, and one embedding."""
LETTERS_A_TOKEN = 4


def tokens_of(text: str, infer: str) -> tuple[int, int]:
    """Tokens that one memory costs, from and to; the text itself counts where it is longer than usual."""
    own = len(text) // LETTERS_A_TOKEN
    embedding = max(EMBEDDING_TOKENS, own)
    if infer == "none":
        return embedding, embedding
    low = max(STAGE_1_TOKENS[0], own)
    high = max(STAGE_1_TOKENS[1], own) + max(STAGE_2_TOKENS[1], own)
    return embedding + low, embedding + high
