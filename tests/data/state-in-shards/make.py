"""Makes `left.tar.gz`; run with the last version that had `replay --shard`.

python make.py DIRECTORY        (with that version's checkout as the working directory)
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from spectron_migrate.ledger.shards import Shard

from spectron_migrate.cli.app import run
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, write_raw

USERS, EACH, SENT = 6, 6, 7


def write(folder: Path) -> None:
    os.chdir(folder)
    rows = [memory(number, f"of-shards-{letter}") for letter in "abcdef"[:USERS] for number in range(EACH)]
    assert 0 == run(["export", "--from", str(write_raw(folder / "all.json", rows)), "-q"])
    with server_here(folder / "server", context="tests", api="0.3.0") as server:
        for number in range(2):
            writes = iter(range(1, 1000))

            def choose(seen: Seen, writes: object = writes) -> Fault:
                if not seen.writes_fact:
                    return "none"
                at = next(writes)  # type: ignore[call-overload]
                return "none" if at < SENT else "cut_after" if at == SENT else "cut_before"

            with misbehaving(server.base_url, choose) as proxy:
                options = ReplayOptions(shard=Shard(number, 2), max_in_flight=2)
                replay_in_no_time(server, folder / "state", folder / "dump", endpoint=proxy.base_url, options=options)
    for path in folder.glob("state/shard-*/ledger.db"):
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute("PRAGMA journal_mode = DELETE")


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as made:
        write(Path(made))
        with tarfile.open(target / "left.tar.gz", "w:gz") as archive:
            for name in ("dump", "server", "state"):
                archive.add(Path(made) / name, name)
