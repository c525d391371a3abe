"""What every store that is read over a wire promises: whole, unchanged, and honest where it cannot be read."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import Incomplete, InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.open import open_oss, source_info
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.mem0.stores.config_spellings import python_config
from spectron_migrate.mem0.stores.listed import ListedReader
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters, Memory, Skipped
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import NOW
from tests.mem0.qdrant_points import uuid
from tests.mem0.rows import Row, odd_payloads
from tests.mem0.stores.kinds import COLLECTION, KINDS, REAL, SLOW, Kind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Kind]]:
    """Real servers, each started once."""
    started: dict[str, Kind] = {}
    with ExitStack() as stack:

        def server(name: str) -> Kind:
            if name not in started:
                started[name] = stack.enter_context(KINDS[name](tmp_path_factory.mktemp("server")))
            started[name].reset()
            return started[name]

        yield server


QUICK = {
    "test_every_row_is_given_as_mem0_would_get_it_back_and_nothing_changes",
    "test_a_configuration_of_mem0_for_typescript_opens_the_same_store",
}
"""What is asked of the slow servers in `make test` as well; `make stores` asks them everything."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" not in metafunc.fixturenames:
        return
    all_kinds = os.environ.get("SPECTRON_MIGRATE_STORES") == "all" or metafunc.function.__name__ in QUICK
    kinds = [name for name in KINDS if all_kinds or name not in SLOW]
    if metafunc.function.__name__ == "test_a_wrong_key_is_one_sentence":
        kinds = [name for name in KINDS if name not in REAL]
    metafunc.parametrize("kind", kinds, indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest, servers: Callable[[str], Kind], tmp_path: Path) -> Iterator[Kind]:
    if request.param in REAL:
        yield servers(request.param)
        return
    with KINDS[request.param](tmp_path) as running:
        yield running


def notes(numbers: Any) -> dict[str, Row]:
    return {uuid(number): {"data": f"note {number}", "user_id": "alice", "hash": "h"} for number in numbers}


def opened(kind: Kind, **more: Any) -> Reader:
    return open_oss(kind.config(**more), now=NOW, sleep=lambda seconds: None)


def memories(rows: list[Memory | Skipped]) -> dict[str, Memory]:
    assert [] == [row for row in rows if isinstance(row, Skipped)]
    return {row.id: row for row in rows if isinstance(row, Memory)}


def texts(rows: list[Memory | Skipped]) -> dict[str, str]:
    return {one: row.memory for one, row in memories(rows).items()}


def export(kind: Kind, dump: Path) -> ExportSummary:
    with opened(kind) as reader:
        return run_export(
            reader,
            dump,
            filters=Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: datetime.now(UTC),
        )


def test_every_row_is_given_as_mem0_would_get_it_back_and_nothing_changes(kind: Kind) -> None:
    kept = {one: kind.kept(row) for one, row in odd_payloads().items()}
    kind.put({one: row for one, row in odd_payloads().items() if kept[one] is not None})
    expected = {one: normalise({"id": one, "payload": row}, now=NOW) for one, row in kept.items() if row is not None}
    before = kind.changes()

    with opened(kind) as reader:
        found = list(reader.rows())
        assert 0 == reader.missing()
        assert "" == reader.unproven
        assert reader.native_count() == (len(expected) if kind.counted else None)

        assert isinstance(reader, ListedReader)
        assert kind.may_write == reader.may_write()

    assert before == kind.changes()
    assert expected == memories(found)


def test_many_rows_are_read_page_by_page(kind: Kind) -> None:
    kind.put(notes(range(2345)))

    with opened(kind) as reader:
        found = list(reader.rows())
        assert 0 == reader.missing()

    assert 2345 == len(found)
    assert notes(range(2345)).keys() == texts(found).keys()


def test_an_empty_store_is_empty_or_unknown(kind: Kind) -> None:
    if kind.is_there_when_empty:
        with opened(kind) as reader:
            assert [] == list(reader.rows())
            assert 0 == reader.missing()
    else:
        with pytest.raises(InputError, match="there is no"):
            opened(kind)


def test_an_unknown_collection_is_refused_with_those_that_exist(kind: Kind) -> None:
    kind.put(notes(range(3)))
    before = kind.changes()

    with pytest.raises(InputError) as error:
        opened(kind, collection_name="memorise")

    assert "there is no" in error.value.message
    assert "memorise" in error.value.message.lower()  # Weaviate has a capital letter
    assert COLLECTION in (error.value.hint or "").lower()
    assert before == kind.changes()


def test_the_source_is_known_without_opening_it_and_without_credentials(kind: Kind) -> None:
    kind.put(notes(range(3)))
    with opened(kind) as reader:
        assert source_info({"oss": {"config": kind.config()}}).identity == reader.info.identity
        for secret in ("pw", "m0-test-key"):
            assert secret not in reader.info.identity


@pytest.mark.parametrize("seed", range(3))
def test_what_was_there_all_the_time_is_read_whatever_an_application_does(kind: Kind, seed: int) -> None:
    chance = random.Random(seed)
    numbers = range(0, 5000, 2)
    kind.put(notes(numbers))
    untouched = set(notes(numbers))

    def live() -> None:
        added = chance.sample(range(1, 5000, 2), 20)
        changed, gone = chance.sample(numbers, 20), chance.sample(numbers, 20)
        kind.put(notes(added))
        for number in changed:
            if uuid(number) in untouched:
                kind.put({uuid(number): {"data": f"changed {number}", "user_id": "alice"}})
        kind.delete([uuid(number) for number in gone])
        untouched.difference_update(uuid(number) for number in gone)

    found: list[Memory | Skipped] = []
    with opened(kind) as reader:
        for number, row in enumerate(reader.rows()):
            found.append(row)
            if number < 3000 and number % 400 == 0:
                live()
        assert 0 == reader.missing()

    given = texts(found)
    assert untouched <= given.keys()
    for one, text in given.items():
        assert text in (f"note {int(one[-12:])}", f"changed {int(one[-12:])}")


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_costs_no_row_or_says_that_it_did(kind: Kind, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kind.put(notes(range(1500)))
    if kind.relay is not None:
        kind.relay.cuts = [chance.randint(100, 60_000) for _ in range(chance.randint(1, 3))]
    else:
        assert kind.stand_in is not None
        kind.stand_in.trouble.every = chance.randint(2, 4)
    try:
        summary = export(kind, tmp_path / "dump")
    except (Unreachable, Incomplete):
        return
    if summary.complete is not False:
        assert 1500 == summary.memories


def test_a_server_that_fails_half_way_leaves_the_old_dump_whole(kind: Kind, tmp_path: Path) -> None:
    kind.put(notes(range(1500)))
    assert export(kind, tmp_path / "dump").complete
    kind.put(notes(range(1500, 1600)))

    with opened(kind) as reader:
        rows = reader.rows()
        next(rows)
        if kind.relay is not None:
            kind.relay.end()
        else:
            assert kind.stand_in is not None
            kind.stand_in.trouble.down_after = 0
        try:
            list(rows)
        except (Unreachable, Incomplete, InputError):
            assert reader.missing() is None
        else:
            assert reader.missing(), "a store that does not answer was taken for read"
    with pytest.raises(MigrateError):
        export(kind, tmp_path / "dump")

    assert set(notes(range(1500))) == {row.id for row in open_dump(tmp_path / "dump").memories()}
    assert {} == dict(open_dump(tmp_path / "dump").manifest.tombstones)


TYPESCRIPT: dict[str, dict[str, str]] = {
    "mongodb": {"mongo_uri": "url"},
    "weaviate": {"auth_client_secret": "apiKey"},
    "elasticsearch": {"user": "username"},
    "supabase": {"collection_name": "tableName"},
    "vectorize": {"collection_name": "indexName"},
}
"""Settings that Mem0 for TypeScript names otherwise than in camel case; it has no other name for a collection."""


def test_a_configuration_of_mem0_for_typescript_opens_the_same_store(kind: Kind) -> None:
    kind.put(notes(range(30)))
    python = kind.config()["vector_store"]["config"]
    names = TYPESCRIPT.get(kind.provider, {})
    config = {names.get(name, camel(name)): value for name, value in python.items()}
    provider = kind.provider.replace("_", "-") if kind.provider == "azure_ai_search" else kind.provider
    section = {"vectorStore": {"provider": provider, "config": config}, "historyDbPath": "/nowhere/memory.db"}
    typescript = python_config(section, "mem0.json")

    assert source_info({"oss": {"config": kind.config()}}).place == source_info({"oss": {"config": typescript}}).place
    with open_oss(typescript, now=NOW, sleep=lambda seconds: None) as reader:
        assert set(notes(range(30))) == memories(list(reader.rows())).keys()


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def test_a_wrong_key_is_one_sentence(kind: Kind) -> None:
    assert kind.stand_in is not None
    kind.stand_in.secret = "another"

    with pytest.raises(KeyRefused) as error:
        opened(kind)

    assert "MEM0_API_KEY" not in (error.value.hint or "")
