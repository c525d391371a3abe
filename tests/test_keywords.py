"""Rare words identify a memory."""

from __future__ import annotations

from spectron_migrate.keywords import WordFrequencies


def test_the_rarest_words_come_first() -> None:
    rarity = WordFrequencies(["anna likes green tea", "anna likes black coffee", "anna likes cake"])
    assert ["green", "tea", "likes"] == rarity.rarest("Anna likes green tea", 3)
