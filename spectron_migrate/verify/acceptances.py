"""Memories that a person accepted at the gates of the cutover count as accepted in verification too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.cutover import moved_memories, refused_memories
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore
from spectron_migrate.verify.options import VerifyOptions


def with_acceptances(options: VerifyOptions, store: Path | StateStore, ledger: Ledger) -> VerifyOptions:
    """The options, with the memories that the journal of this state accepts for what the ledger says of them now.

    Raises InputError for a journal that cannot be read.
    """
    state = read_journal(store).state
    refused, moved = refused_memories(ledger), moved_memories(ledger)
    return replace(
        options,
        accepted=options.accepted | (set(refused) - set(state.not_accepted("refused", refused))),
        accepted_moved=options.accepted_moved | (set(moved) - set(state.not_accepted("moved", moved))),
    )
