"""Whatever changes in Mem0 between exports, and whichever shards plan them when: no memory is sent from two shards."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.shards import Shard
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.migration.sharding import Sharding
from spectron_migrate.records import Filters, Memory, NullReporter, SourceInfo, format_time

pytestmark = pytest.mark.slow

SHARDS = 3
SENT = "state IN ('intended', 'written', 'stored_not_extracted', 'undecidable')"
MAPPING = load_mapping(None)

rows = st.dictionaries(
    st.sampled_from([f"m{number}" for number in range(4)]),
    st.tuples(st.sampled_from([f"u{number}" for number in range(6)]), st.sampled_from(["tea", "jazz", " "])),
    max_size=4,
)
rounds = st.lists(
    st.tuples(rows, st.permutations(range(SHARDS)), st.lists(st.booleans(), min_size=SHARDS, max_size=SHARDS)),
    min_size=1,
    max_size=3,
)


def export(folder: Path, memories: dict[str, tuple[str, str]], now: datetime) -> None:
    """Bring the dump up to date: what is not in it any more gets its tombstone."""
    with DumpWriter(folder, SourceInfo("oss", "laws"), now) as writer:
        for mem0_id, (user, text) in memories.items():
            at = format_time(now)
            writer.add(Memory(mem0_id, text, user_id=user, created_at=at, text_at=at, text_at_source="created_at"))
        writer.commit(complete=True, native_count=len(memories), ended=now)


def plan_one(number: int, state: Path, dump: Path, now: datetime, *, send: bool) -> None:
    """One shard plans the dump and, perhaps, sends what it planned."""
    shard = Shard(number, SHARDS)
    with open_dump(dump) as opened, Ledger.open_for_writing(shard.folder(state)) as ledger:
        sharding = Sharding(shard, state, opened, MAPPING, context="c")
        sharding.join()
        try:
            planned = make_plan(
                ledger,
                opened,
                MAPPING,
                Filters(),
                context="c",
                now=format_time(now),
                reporter=NullReporter(),
                sharding=sharding,
            )
        finally:
            sharding.close()
        if send:
            with ledger.transaction():
                ledger.db.execute(
                    "UPDATE fact SET state = 'written', was_sent = 1 WHERE plan = ? AND state = 'planned'",
                    (planned.id,),
                )


def ledgers(state: Path) -> list[Ledger]:
    return [Ledger.open_for_reading(Shard(number, SHARDS).folder(state)) for number in range(SHARDS)]


@settings(max_examples=25, deadline=None)
@given(rounds)
def test_no_memory_is_sent_from_two_shards_and_none_is_left_out(
    steps: list[tuple[dict[str, tuple[str, str]], list[int], list[bool]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        state, dump = Path(name) / "state", Path(name) / "dump"
        now = datetime(2026, 1, 1, tzinfo=UTC)
        for memories, order, sends in steps:
            now += timedelta(hours=1)
            export(dump, memories, now)
            for number in order:
                plan_one(number, state, dump, now, send=sends[number])
        opened = ledgers(state)
        sent = [{row[0] for row in one.db.execute(f"{_IDS} WHERE {SENT}")} for one in opened]
        waiting = [{row[0] for row in one.db.execute(_WAITING)} for one in opened]
        known = {row[0] for one in opened for row in one.db.execute(_IDS)}
        for one in opened:
            one.close()
    for mem0_id in known:
        assert 1 >= sum(mem0_id in each for each in sent)
        # What is sent somewhere waits nowhere else, and what waits does so in one place.
        assert 1 >= sum(mem0_id in sent[number] or mem0_id in waiting[number] for number in range(SHARDS))
    last = steps[-1][0]
    assert set(last) <= known
    readable = {mem0_id for mem0_id, (_, text) in last.items() if text.strip()}
    assert readable <= set().union(*sent, *waiting)


_IDS = "SELECT mem0_id FROM fact JOIN version ON version.id = fact.id"
_WAITING = f"{_IDS} WHERE state = 'planned'"
