"""Grouped commits: whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.writer import GroupCommit


def test_a_change_that_fails_keeps_nothing_of_its_group_and_the_writer_goes_on(tmp_path: Path) -> None:
    def note(ledger: Ledger, question: str) -> str:
        ledger.db.execute("INSERT INTO probe VALUES ('e', 'c', ?, 'yes', 'now')", (question,))
        return question

    def fail(_: Ledger) -> None:
        raise ValueError("no")

    async def run(ledger: Ledger) -> list[Any]:
        writer = GroupCommit(ledger)
        first = await asyncio.gather(
            writer.durable(note, "a"), writer.durable(fail), writer.grouped(note, "b"), return_exceptions=True
        )
        second = await asyncio.wait_for(writer.durable(note, "c"), timeout=5)
        await asyncio.wait_for(writer.close(), timeout=5)
        return [*(type(each).__name__ for each in first), second]

    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        told = asyncio.run(run(ledger))
        kept = [row["question"] for row in ledger.db.execute("SELECT question FROM probe")]
    assert ["c"] == kept
    assert ["ValueError", "ValueError", "ValueError", "c"] == told


def test_a_task_that_is_cancelled_while_its_change_is_committed_leaves_the_others_whole(tmp_path: Path) -> None:
    def note(ledger: Ledger, question: str) -> str:
        ledger.db.execute("INSERT INTO probe VALUES ('e', 'c', ?, 'yes', 'now')", (question,))
        return question

    async def run(ledger: Ledger) -> str:
        writer = GroupCommit(ledger)
        cancelled = asyncio.create_task(writer.durable(note, "a"))
        other = asyncio.create_task(writer.durable(note, "b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        told = await asyncio.wait_for(other, timeout=5)
        await asyncio.wait_for(writer.close(), timeout=5)
        return told

    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        assert "b" == asyncio.run(run(ledger))
        kept = [row["question"] for row in ledger.db.execute("SELECT question FROM probe ORDER BY question")]
    assert ["a", "b"] == kept


def test_what_is_collected_is_recorded_together_and_before_what_waits(tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = []

    def record(_: Ledger, items: Sequence[str]) -> None:
        calls.append(tuple(items))

    def look(_: Ledger) -> list[tuple[str, ...]]:
        return list(calls)

    async def run(ledger: Ledger) -> list[tuple[str, ...]]:
        writer = GroupCommit(ledger)
        writer.collect(record, "a")
        seen = asyncio.ensure_future(writer.grouped(look))
        writer.collect(record, "b")
        found = await asyncio.wait_for(seen, timeout=5)
        writer.collect(record, "c")
        await asyncio.wait_for(writer.close(), timeout=5)
        return found

    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        assert [("a", "b")] == asyncio.run(run(ledger))
    assert [("a", "b"), ("c",)] == calls


def test_what_could_not_be_recorded_fails_the_next_change(tmp_path: Path) -> None:
    def fail(_: Ledger, items: Sequence[str]) -> None:
        raise ValueError(f"no {items}")

    async def run(ledger: Ledger) -> None:
        writer = GroupCommit(ledger)
        writer.collect(fail, "a")
        with pytest.raises(ValueError, match="no"):
            await asyncio.wait_for(writer.close(), timeout=5)

    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        asyncio.run(run(ledger))
