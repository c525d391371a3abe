"""Makes this directory's ledger, server and verification; run with the last version that writes format 3.

python make.py DIRECTORY        (with that version's checkout as the working directory)
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

from spectron_migrate.replay import ReplayOptions
from tests.delivery.playing import replay_in_no_time

from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import Ledger, plan
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import Filters, Memory, Placement
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import memory, write_raw
from tests.verify.support import verify

RULES = "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n"
LATER = "2026-01-01T00:00:00.000000Z"


def rows() -> list[dict[str, object]]:
    ann = [memory(number, "ann") for number in range(6)]
    bob = [memory(number, "bob") for number in range(6)]
    cy = [memory(number, "cy") for number in range(5)]
    eve = [
        memory(number, "eve", text) for number, text in enumerate(("Likes green tea", "Lives in Berlin", "Has a dog"))
    ]
    old = memory(9, "ann", "ann had a bicycle", expiration_date="2025-02-01")
    return [*ann, *bob, *cy, *eve, old]


def write(folder: Path) -> None:
    dump = write_raw(folder / "all.json", rows())
    (folder / "mapping.yaml").write_text(RULES)
    (folder / "batch.yaml").write_text(f"{RULES}infer: none\nwrite: batch\n")
    state = folder / "state"
    with server_here(folder / "server", context="tests") as server:

        def choose(seen: Seen) -> Fault:
            if not seen.writes_fact:
                return "none"
            if b"ann remembers thing number 2" in seen.body:
                return refusing(413, "too long")
            if b"ann remembers thing number 3" in seen.body:
                return "cut_after"  # stored, and the answer never came
            if b"bob remembers thing number 1" in seen.body or b"Lives in Berlin" in seen.body:
                return "cut_before"
            return "none"

        def only(user: str) -> ReplayOptions:
            return ReplayOptions(filters=Filters(users=frozenset({user})))

        def go(endpoint: str, mapping: str, options: ReplayOptions) -> None:
            replay_in_no_time(server, state, dump, endpoint=endpoint, mapping=folder / mapping, options=options)

        with misbehaving(server.base_url, choose) as proxy:
            go(server.base_url, "batch.yaml", ReplayOptions(limit=2, filters=only("cy").filters))
            for user in ("ann", "bob", "eve"):
                go(proxy.base_url, "mapping.yaml", only(user))
            with Ledger.open_for_writing(state) as ledger, ledger.transaction() as db:
                db.execute("UPDATE fact SET state = 'undecidable', reason = 'nobody knows' WHERE mem0_id = 'bob-0001'")

        def no_answer(seen: Seen) -> Fault:
            doubtful = seen.path.endswith("/facts/batch") or b"Lives in Berlin" in seen.body
            return "cut_before" if seen.writes_fact and doubtful else "none"

        with misbehaving(server.base_url, no_answer) as proxy:
            go(proxy.base_url, "batch.yaml", only("cy"))
            go(proxy.base_url, "mapping.yaml", only("ann"))
        later(state, folder)

        def stop(seen: Seen) -> Fault:
            return "cut_before" if seen.path.endswith("/query") else "none"

        with misbehaving(server.base_url, stop) as proxy, suppress(MigrateError):
            verify(server, state, [dump], endpoint=proxy.base_url)
    for path in (state / "ledger.db", state / "verify.db"):
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute("PRAGMA journal_mode = DELETE")


def later(state: Path, folder: Path) -> None:
    """What adapters captured afterwards: a message with two memories, a new text, a deletion."""
    mapping = load_mapping(folder / "mapping.yaml")
    with Ledger.open_for_writing(state) as ledger, ledger.transaction():
        migration, last = ledger.migration(), plan.last_plan(ledger)
        assert migration is not None
        assert last is not None
        scan = plan.ScanRow("live 1", plan.LIVE, LATER, LATER, None, "")
        plan.keep_scan(ledger, scan)
        merge = Merge(ledger, last[0], scan, migration=migration.id, same_mapping=True, now=LATER)

        def told(mem0_id: str, text: str, user: str) -> tuple[Memory, Placement]:
            times = {"created_at": LATER, "updated_at": LATER, "text_at": LATER, "text_at_source": "updated_at"}
            made = Memory.from_json({"id": mem0_id, "memory": text, "user_id": user, **times})
            placed = mapping.place(made)
            assert isinstance(placed, Placement)
            return made, placed

        message, placed = told("message-1", "I moved to Oslo and I like fish", "dee")
        merge.add_message(message, placed)
        for number, text in enumerate(("Moved to Oslo", "Likes fish")):
            made, placed = told(f"dee-{number:04d}", text, "dee")
            merge.add(made, placed, message=message.id)
        merge.add(*told("ann-0000", "ann remembers something else", "ann"))
        merge.tombstone("ann-0001", LATER)
        merge.tombstone("ann-0005", LATER)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in ("state", "server"):
        shutil.rmtree(target / name, ignore_errors=True)
    write(target)
