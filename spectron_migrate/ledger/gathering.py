"""Makes one ledger of a state: gathers the ledgers of shards, which earlier versions made, in a private copy.

Each memory stays with the shard that sent it. What the shards have in common (scans, lanes, selectors, scopes) is
stored once. New numbers are assigned, except where the server has seen the old ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate.database.interface import Database
from spectron_migrate.errors import Incomplete, InputError, WrongLedger
from spectron_migrate.ledger import sqlite
from spectron_migrate.ledger.copying import rows_of
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.markers import NUMBER
from spectron_migrate.ledger.read import adoption_steps
from spectron_migrate.ledger.runs import RUN
from spectron_migrate.ledger.schema import DDL, FORMAT, SENT
from spectron_migrate.records import canonical_json, counted
from spectron_migrate.state.shards import find_shards, shard_folder

_Row = dict[str, Any]


@contextmanager
def one_ledger(folder: Path) -> Iterator[tuple[Database | None, int]]:
    """The ledger in a state directory as of one moment, or None if there is none; and how many shards it had.

    Raises Incomplete if the ledger of a shard is missing, and InputError for shards of two different counts.
    """
    shards = _folders_of_shards(folder)
    if not shards and not Ledger.exists(folder):
        yield None, 0
        return
    with ExitStack() as opened:
        ledgers = [opened.enter_context(Ledger.open_for_reading(each)) for each in shards or [folder]]
        for ledger in ledgers:
            ledger.db.execute("BEGIN")
        if not shards:
            yield ledgers[0].db, 0
            return
        private = sqlite.private_database(Path(tempfile.gettempdir()), None)
        opened.callback(private.close)
        private.connection.executescript(f"{DDL}PRAGMA user_version = {FORMAT};BEGIN IMMEDIATE;")
        _Gathering(private.connection).run([ledger for ledger in ledgers if ledger.migration() is not None])
        yield private.connection, len(ledgers)


def _folders_of_shards(state: Path) -> list[Path]:
    found = find_shards(state)
    counts = sorted({count for count, _ in found})
    if len(counts) > 1:
        raise InputError(
            f"{state} holds shards of {' and of '.join(map(str, counts))}: a migration has one number of them",
            hint="keep those that Spectron was written from, and move the others away",
        )
    numbers = [number for _, number in found]
    missing = [f"{number}/{counts[0]}" for number in range(counts[0]) if number not in numbers] if counts else []
    if missing:
        raise Incomplete(
            f"{counted(len(missing), 'shard has', 'shards have')} no ledger here: {', '.join(missing)}",
            hint="run it once with the version that began the shards",
        )
    return [shard_folder(state, number, counts[0]) for number in numbers]


class _Gathering:
    """Puts the rows of ledgers into an empty one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._scans: dict[str, int] = {}
        self._plans: dict[str, int] = {}
        self._lanes: dict[str, int] = {}
        self._selectors: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._parts: dict[tuple[int, str | None, str], int] = {}
        self._scopes: dict[str, _Row] = {}
        self._steps: list[_Row] = []

    def run(self, ledgers: list[Ledger]) -> None:
        """Raises WrongLedger if they are not of one migration."""
        self._add_migration(ledgers)
        self._add_scans(ledgers)
        self._add_plans(ledgers)
        owners = _owners(ledgers)
        for number, ledger in enumerate(ledgers):
            _OneLedger(self, ledger).add({memory for memory, owner in owners.items() if owner == number})
        for row in self._scopes.values():
            self.insert("scope", row)
        self._add_steps()

    def insert(self, table: str, row: _Row, *, unless_there: bool = False) -> None:
        values = ", ".join("?" * len(row))
        end = " ON CONFLICT DO NOTHING" if unless_there else ""
        self._db.execute(f"INSERT INTO {table}({', '.join(row)}) VALUES ({values}){end}", tuple(row.values()))

    def next_number(self, table: str, step: int = 1) -> int:
        """The next number of a table. Requests of batches have numbers below 0."""
        self._next[f"{table}{step}"] = self._next.get(f"{table}{step}", 0) + step
        return self._next[f"{table}{step}"]

    def lane(self, name: str) -> int:
        return self._numbered("lane", self._lanes, "name", name)

    def selector(self, text: str) -> int:
        return self._numbered("selector", self._selectors, "text", text)

    def _numbered(self, table: str, known: dict[str, int], column: str, value: str) -> int:
        if value not in known:
            known[value] = self.next_number(table)
            self.insert(table, {"no": known[value], column: value})
        return known[value]

    def scan(self, scan_id: str) -> int:
        return self._scans[scan_id]

    def plan(self, fingerprint: str) -> int:
        return self._plans[fingerprint]

    def next_part(self, selector: int, run: str | None, infer: str) -> int:
        """The next part number of a selector's sessions, counted over all shards."""
        key = (selector, run, infer)
        self._parts[key] = self._parts.get(key, -1) + 1
        return self._parts[key]

    def add_scope(self, row: _Row) -> None:
        """Add a scope. It is ours if one of the shards made it."""
        known = self._scopes.setdefault(row["path"], row)
        created = max(known["created_by_us"], row["created_by_us"])
        intended = [each["intended_at"] for each in (known, row) if each["intended_at"]]
        self._scopes[row["path"]] = {
            "path": row["path"],
            "listed_before": 0 if created else max(known["listed_before"], row["listed_before"]),
            "intended_at": min(intended, default=None),
            "registered": max(known["registered"], row["registered"]),
            "created_by_us": created,
        }

    def keep_step(self, row: _Row) -> None:
        self._steps.append(row)

    def _add_migration(self, ledgers: list[Ledger]) -> None:
        rows = [dict(ledger.db.execute("SELECT * FROM migration").fetchone()) for ledger in ledgers]
        if not rows:
            return
        for name in ("id", "mapping_digest"):
            if len({row[name] for row in rows}) > 1:
                raise WrongLedger(
                    f"the ledgers of the shards differ in their {name.replace('_', ' ')}",
                    hint="they are of two migrations, or of two mappings: copy each state for itself",
                )
        named = {name: next((row[name] for row in rows if row[name]), None) for name in ("endpoint", "principal")}
        listed = [row["scopes_listed_at"] for row in rows if row["scopes_listed_at"]]
        first = min(rows, key=lambda row: row["created_at"])
        self.insert(
            "migration",
            {**first, **named, "scopes_listed_at": min(listed, default=None), "shard": 0, "shards": 1},
        )

    def _add_scans(self, ledgers: list[Ledger]) -> None:
        """Add the scans in the order in which they began; each shard's own order is kept."""
        found: dict[str, _Row] = {}
        parents: dict[str, str | None] = {}
        for ledger in ledgers:
            rows = [dict(row) for page in rows_of(ledger.db, "scan") for row in page]
            by_number = {row["no"]: row["id"] for row in rows}
            for row in rows:
                found.setdefault(row["id"], row)
                parents[row["id"]] = parents.get(row["id"]) or by_number.get(row["parent"])
        for row in sorted(found.values(), key=lambda row: (row["began"] or row["ended"] or "", row["no"])):
            self._scans[row["id"]] = self.next_number("scan")
            parent = self._scans.get(parents[row["id"]] or "")
            self.insert("scan", {**row, "no": self._scans[row["id"]], "parent": parent})

    def _add_plans(self, ledgers: list[Ledger]) -> None:
        """Turn the plans that all shards made from one export into one plan.

        The next replay merges it again, into all lanes.
        """
        for ledger in ledgers:
            for row in (dict(row) for page in rows_of(ledger.db, "plan") for row in page):
                name = row["fingerprint"]
                if name in self._plans:
                    self._db.execute(
                        "UPDATE plan SET replaced = replaced + ?, scopes = scopes + ?, lanes = lanes + ?,"
                        " complete = min(complete, ?) WHERE id = ?",
                        (row["replaced"], row["scopes"], row["lanes"], row["complete"], self._plans[name]),
                    )
                    continue
                self._plans[name] = self.next_number("plan")
                scan = self._scans[scan_name(ledger, row["scan"])]
                changed = {"id": self._plans[name], "fingerprint": f"gathered {name}", "scan": scan}
                self.insert("plan", {**row, **changed})

    def _add_steps(self) -> None:
        known: set[tuple[str, str]] = set()
        # A step that is unfinished in one shard is unfinished, because the last step of its kind counts.
        for row in sorted(self._steps, key=lambda row: (_is_begun(row), row["at"])):
            if row["kind"] == NUMBER and (row["kind"], row["subject"]) in known:
                continue
            known.add((row["kind"], row["subject"]))
            self.insert("step", {**row, "id": self.next_number("step")})


class _OneLedger:
    """Adds the rows of one shard."""

    def __init__(self, into: _Gathering, ledger: Ledger) -> None:
        self._into = into
        self._db = ledger.db
        self._ledger = ledger
        self._scans = self._names("scan", "no", "id")
        self._plans = self._names("plan", "id", "fingerprint")
        self._lanes = self._names("lane", "no", "name")
        self._selectors = self._names("selector", "no", "text")
        self._sessions: dict[int, int] = {}
        self._versions: dict[int, int] = {}
        self._requests: dict[int, int] = {}

    def add(self, memories: set[str]) -> None:
        """Add what the shard has, but of its memories only these."""
        into = self._into
        shard = self._db.execute("SELECT shard, shards FROM migration").fetchone()
        for row in self._rows("selector_path"):
            into.insert("selector_path", {**row, "selector": self._selector(row["selector"])}, unless_there=True)
        for row in self._rows("scope"):
            into.add_scope(row)
        for row in self._rows("session"):
            self._add_session(row)
        for row in self._rows("memory"):
            if row["mem0_id"] in memories:
                changed: _Row = {"scan": self._scan(row["scan"]), "tombstoned_by": self._scan(row["tombstoned_by"])}
                into.insert("memory", {**row, **changed, "digest": ""})
        for row in self._rows("version"):
            if row["mem0_id"] in memories:
                self._versions[row["id"]] = into.next_number("version")
                into.insert("version", {**row, "id": self._versions[row["id"]], "scan": self._scan(row["scan"])})
        for row in self._rows("pending"):
            if row["mem0_id"] in memories:
                changed = {"scan": self._scan(row["scan"]), "plan": self._plan(row["plan"])}
                into.insert("pending", {**row, **changed})
        self._add_facts()
        for row in self._rows("probe"):
            into.insert("probe", row, unless_there=True)
        steps = [row for row in self._rows("step") if row["kind"] != RUN]
        adoptions = [row for row in steps if row["kind"] == adoption_steps.KIND]
        for row in steps:
            if not _is_begun(row) or row is adoptions[-1]:
                into.keep_step(_step(row, shard["shard"], shard["shards"]))

    def _add_session(self, row: _Row) -> None:
        into = self._into
        self._sessions[row["id"]] = into.next_number("session")
        selector = self._selector(row["selector"])
        part = into.next_part(selector, row["run"], row["infer"])
        into.insert("session", {**row, "id": self._sessions[row["id"]], "selector": selector, "part": part})

    def _add_facts(self) -> None:
        into = self._into
        for row in self._rows("request"):
            number = self._versions.get(row["id"]) if row["id"] > 0 else into.next_number("request", -1)
            if number is not None:
                self._requests[row["id"]] = number
                into.insert("request", {**row, "id": number})
        for row in self._rows("fact"):
            if row["id"] in self._versions:
                changed = {
                    "id": self._versions[row["id"]],
                    "plan": self._plan(row["plan"]),
                    "lane": None if row["lane"] is None else into.lane(self._lanes[row["lane"]]),
                    "selector": None if row["selector"] is None else self._selector(row["selector"]),
                    "session": None if row["session"] is None else self._sessions[row["session"]],
                    "batch": None if row["batch"] is None else self._requests.get(row["batch"]),
                    "message": self._versions.get(row["message"]) if row["message"] is not None else None,
                }
                into.insert("fact", {**row, **changed})
        for table in ("receipt", "extracted", "residue"):
            for row in self._rows(table):
                if row["fact"] in self._versions:
                    session = {"session": self._sessions[row["session"]]} if "session" in row else {}
                    into.insert(table, {**row, **session, "fact": self._versions[row["fact"]]})

    def _rows(self, table: str) -> Iterator[_Row]:
        return (dict(row) for page in rows_of(self._db, table) for row in page)

    def _names(self, table: str, number: str, name: str) -> Mapping[int, str]:
        return dict(map(tuple, self._db.execute(f"SELECT {number}, {name} FROM {table}").fetchall()))

    def _scan(self, number: int | None) -> int | None:
        return None if number is None else self._into.scan(self._scans[number])

    def _plan(self, number: int) -> int:
        return self._into.plan(self._plans[number])

    def _selector(self, number: int) -> int:
        return self._into.selector(self._selectors[number])


def scan_name(ledger: Ledger, number: int) -> str:
    """The id of a scan."""
    return str(ledger.db.execute("SELECT id FROM scan WHERE no = ?", (number,)).fetchone()["id"])


def _owners(ledgers: list[Ledger]) -> dict[str, int]:
    """For each memory, the ledger to take it from: the one that sent it, else the one that will, else the newest."""
    sent = ", ".join(f"'{state}'" for state in SENT)
    best: dict[str, tuple[tuple[int, str], int]] = {}
    for number, ledger in enumerate(ledgers):
        rows = ledger.db.execute(
            "SELECT memory.mem0_id, scan.began,"
            f" max(CASE WHEN fact.state IN ({sent}) THEN 3 WHEN fact.state = 'refused' THEN 2"
            "  WHEN fact.state = 'planned' THEN 1 ELSE 0 END) AS claim"
            " FROM memory JOIN scan ON scan.no = memory.scan LEFT JOIN version ON version.mem0_id = memory.mem0_id"
            " LEFT JOIN fact ON fact.id = version.id GROUP BY memory.mem0_id, scan.began"
        )
        for row in rows:
            claim = (row["claim"], row["began"] or "")
            if row["mem0_id"] not in best or claim > best[row["mem0_id"]][0]:
                best[row["mem0_id"]] = (claim, number)
    return {memory: number for memory, (_, number) in best.items()}


def _step(row: _Row, shard: int, count: int) -> _Row:
    """Give a marker the name that a ledger without shards gives it, and let an adoption start its search over."""
    if row["kind"] == NUMBER and row["subject"].isdigit():
        return {**row, "subject": f"{shard}.{count}-{row['subject']}"}
    if row["kind"] == adoption_steps.KIND:
        detail = json.loads(row["detail"])
        return {**row, "detail": canonical_json({**detail, "newest_fact": 0} if "newest_fact" in detail else detail)}
    return row


def _is_begun(row: _Row) -> bool:
    """Whether the step begins an adoption. The last step of that kind shows whether the adoption was finished."""
    return row["kind"] == adoption_steps.KIND and bool(json.loads(row["detail"])["phase"] == adoption_steps.BEGUN)
