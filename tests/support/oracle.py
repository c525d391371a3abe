"""The invariants of a migration (docs/protocol.md, Invariants), checked on the server, the ledger and the wire.

I1   every version of every memory is one claimed turn, or skipped, refused or undecidable by name
I2   no turn is claimed twice; an unclaimed turn in a session of ours is listed residue
I3   no byte leaves before its intent and its session are on disk
I4   in a session the server's `seq` rises with the position
I5   in a lane `full` turns arrive in the order of their keys
I6   in a session, and in a lane with `full`, nothing is sent while another send is undecided
I7   a turn is in the scopes that the mapping gives its memory, and the lens of its owner covers them
I8   no session is deleted or created by a write, no scope is empty
I9   with writers stopped, the memories of Mem0 are those claimed, except the named ones
I10  a key is sent again with the same bytes
I11  nothing is sent for the first time while its memory has a tombstone
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.schema import STORED
from spectron_migrate.local.faults import FAULTS, REQUEST
from spectron_migrate.mapping import ScopeMapping, covers
from spectron_migrate.records import Memory, Placement, same_text, selector_of
from tests.support.ledgers import facts_of
from tests.support.proxy import Fault, Seen

MOVED = "moved to another scope"
ANSWERED = [name for name, fault in FAULTS.items() if fault.work == "done" and fault.shown == "answer"]
"""Faults with which the client sees the whole answer, whatever the server forgets afterwards."""
NOT_BEGUN = ("429", "503")
"""Faults after which the server has not started: the bytes do not count as sent."""


@dataclass(frozen=True)
class Turn:
    """A row of the server's table of turns; `arrived` counts over the whole server."""

    id: str
    session: str
    seq: int
    text: str
    paths: frozenset[str]
    arrived: int


def server_turns(database: Path) -> list[Turn]:
    """Every turn that the server has."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT id, session, seq, content, scopes, first FROM turns"
            " LEFT JOIN (SELECT turn, min(number) AS first FROM item GROUP BY turn) ON turn = id"
        ).fetchall()
    return [
        Turn(row[0], row[1], row[2], row[3], frozenset(p.strip("/") for c in json.loads(row[4]) for p in c), row[5])
        for row in rows
    ]


def server_sessions(database: Path) -> dict[str, int]:
    """Every session that the server has, with its number of turns."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT id, turns FROM sessions").fetchall())


def ledger_facts(state: Path) -> list[dict[str, Any]]:
    """Every fact of the ledger, with its session and the tombstone of its memory."""
    with Ledger.open_for_reading(state) as ledger:
        return facts_of(ledger)


def find_violations(
    database: Path, state: Path, memories: Iterable[Memory], mapping: ScopeMapping, *, finished: bool = True
) -> list[str]:
    """Every violation of an invariant, in words.

    `memories`: what Mem0 has now; only if `finished`, all of it must be decided.
    """
    turns, facts = {turn.id: turn for turn in server_turns(database)}, ledger_facts(state)
    sent = [fact for fact in facts if not is_adopted(fact)]
    wrong = [*_check_claims(facts, turns), *unclaimed_turns(facts, turns, finished=finished)]
    wrong += [
        *_check_session_order(sent, turns),
        *check_lane_order(sent, turns),
        *_check_sessions(facts, server_sessions(database)),
    ]
    if finished:
        wrong += _check_memories(facts, memories, mapping)
    return wrong


def is_adopted(fact: dict[str, Any]) -> bool:
    """Whether another ledger sent it."""
    return str(fact["decided_by"]).startswith("adopted")


def _check_claims(facts: list[dict[str, Any]], turns: Mapping[str, Turn]) -> Iterable[str]:
    """I1, I2 and I7, of what is stored."""
    claimed: dict[str, str] = {}
    for fact in facts:
        name = f"{fact['mem0_id']} version {fact['version']}"
        if fact["state"] in ("skipped", "refused", "undecidable") and not fact["reason"]:
            yield f"I1: {name} is {fact['state']} without a reason"
        if fact["message"] and (fact["turn_id"] or fact["state"] != "skipped"):
            yield f"I2: {name} is in the turn of {fact['message']}, and sent itself"
        if fact["state"] not in STORED or fact["decided_by"] == "person":
            continue
        turn = turns.get(fact["turn_id"])
        if turn is None:
            yield f"I1: {name} is {fact['state']}, and its turn {fact['turn_id']} is not on the server"
            continue
        if turn.id in claimed:
            yield f"I2: turn {turn.id} is claimed by {claimed[turn.id]} and by {name}"
        claimed[turn.id] = name
        if turn.session != fact["server_id"] or not same_text(turn.text, fact["text"]):
            yield f"I1: {name} claims a turn of another session or text: {turn}"
        if turn.paths != {path for clause in selector_of(fact["selector"]) for path in clause}:
            yield f"I7: {name} belongs to {fact['selector']} and lies in {sorted(turn.paths)}"


def unclaimed_turns(facts: list[dict[str, Any]], turns: Mapping[str, Turn], *, finished: bool) -> Iterable[str]:
    """I2: turns that no fact claims. Before the end, sessions with undecided facts may have some."""
    known = {fact["turn_id"] for fact in facts} | {fact["candidate"] for fact in facts}
    known |= {turn for fact in facts if fact["residue"] for turn in fact["residue"]}
    unsure = {fact["server_id"] for fact in facts if fact["state"] in ("intended", "undecidable")}
    for turn in turns.values():
        if turn.id not in known and (finished or turn.session not in unsure):
            yield f"I2: nobody claims {turn}"


def _check_sessions(facts: list[dict[str, Any]], sessions: Mapping[str, int]) -> Iterable[str]:
    """I8: a session that the ledger does not know must be empty: its response was lost."""
    ours = {fact["server_id"] for fact in facts}
    return (f"I8: session {id_} has {count} turns and is not ours" for id_, count in sessions.items()
            if count and id_ not in ours)  # fmt: skip


def _stored(facts: list[dict[str, Any]], turns: Mapping[str, Turn]) -> list[dict[str, Any]]:
    return [{**fact, "turn": turns[fact["turn_id"]]} for fact in facts if fact["turn_id"] in turns]


def _check_session_order(facts: list[dict[str, Any]], turns: Mapping[str, Turn]) -> Iterable[str]:
    """I4, in each session."""
    rows = sorted(_stored(facts, turns), key=lambda fact: (fact["session"], fact["position"]))
    for one, two in pairwise(rows):
        if one["session"] == two["session"] and one["turn"].seq >= two["turn"].seq:
            yield f"I4: {two['mem0_id']} was sent after {one['mem0_id']} and stored before it"


def check_lane_order(facts: list[dict[str, Any]], turns: Mapping[str, Turn]) -> Iterable[str]:
    """I5, in each lane, of facts as the ledger has them that sent them.

    One that adopted them knows neither which of some equal texts a turn is of, nor whether it was late.
    """
    full = [fact for fact in _stored(facts, turns) if fact["infer"] == "full"]
    for one, two in pairwise(sorted(full, key=lambda fact: (fact["lane"], fact["turn"].arrived))):
        if one["lane"] == two["lane"] and one["order_key"] > two["order_key"]:
            yield f"I5: in {one['lane']} {two['mem0_id']} came after {one['mem0_id']}, which is newer"


def _check_memories(facts: list[dict[str, Any]], memories: Iterable[Memory], mapping: ScopeMapping) -> Iterable[str]:
    """I1, I7 and I9, of what Mem0 has now."""
    newest = {fact["mem0_id"]: fact for fact in sorted(facts, key=lambda fact: int(fact["version"]))}
    messages = {id_: fact for id_, fact in newest.items() if fact["is_message"]}
    for fact in facts:
        if fact["state"] in ("planned", "intended"):
            yield f"I1: {fact['mem0_id']} version {fact['version']} is still {fact['state']}"
    now = set()
    for memory in memories:
        now.add(memory.id)
        found = newest.get(memory.id)
        if found is None:
            yield f"I1: the ledger never heard of {memory.id}"
            continue
        mapped = mapping.map_memory(memory)
        if MOVED in (found["reason"] or "") or not isinstance(mapped, Placement):
            continue
        if found["text"] is not None and found["text"] != memory.memory:
            yield f"I1: the newest version of {memory.id} is not its text"
        if found["tombstoned_at"]:
            yield f"I9: {memory.id} is in Mem0 but has a tombstone"
        sent = messages[found["message"]] if found["message"] else found
        if sent["tombstoned_at"]:
            yield f"I9: {memory.id} is in Mem0, and its message {sent['mem0_id']} counts as deleted"
        if sent["selector"] != found["selector"]:
            yield f"I7: {memory.id} belongs to {found['selector']}, its message lies in {sent['selector']}"
        if sent["state"] not in (*STORED, "refused", "undecidable"):
            yield f"I9: {memory.id} is {found['state']} ({found['reason']})"
        if selector_of(found["selector"]) != mapped.selector:
            yield f"I7: {memory.id} is in {found['selector']}, the mapping puts it into {mapped.selector}"
        elif memory.user_id and not covers(mapping.lens(user_id=memory.user_id).selector, mapped.selector):
            yield f"I7: the lens of {memory.user_id} does not see {memory.id}"
    carriers = {newest[memory_id]["message"] for memory_id in now if memory_id in newest}
    for id_, fact in newest.items():
        if id_ not in now | carriers and fact["state"] in STORED and not fact["tombstoned_at"]:
            yield f"I9: {id_} is claimed, not in Mem0, and has no tombstone"


@dataclass
class Watch:
    """Checks each request before its fault is played: the `choose` of a proxy, and `around` its server."""

    state: Path
    choose: Callable[[Seen], Fault] = lambda seen: "none"
    wrong: list[str] = field(default_factory=list)
    client_is_dead: bool = False
    """Whether the client counts as killed: what it still sends never arrives."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """The bytes that each key was last sent with, until the fact was decided not to be stored."""
    _sent_keys: set[str] = field(default_factory=set)
    """Keys that were sent, with the same exception."""
    _answered: set[str] = field(default_factory=set)
    """Keys that got a whole 200; if the ledger lost it, the listing or the same bytes bring it back."""
    _faults: dict[str, str] = field(default_factory=dict)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=60))
    """The last requests."""

    def begin_run(self) -> None:
        """Another process starts."""
        self.client_is_dead = False
        if (self.state / "ledger.db").exists():
            # What was refused, or skipped because Mem0 had replaced or deleted it, was not stored. It may be planned
            # again and sent with other bytes, which then are those of its key. If it was stored after all, its turn is
            # one that nobody claims.
            for fact in ledger_facts(self.state):
                if fact["state"] in ("refused", "skipped"):
                    self.sent.pop(fact["key"], None)
                    self._sent_keys.discard(fact["key"])
        self.log.append("-- run")

    def with_log(self, wrong: list[str]) -> str:
        """Violations, with the requests before them."""
        return "\n".join([*wrong, "-- the last requests", *self.log])

    def __call__(self, seen: Seen) -> Fault:
        if self.client_is_dead:
            return "cut_before"
        try:
            return self._check_request(seen)
        except Exception as error:
            self.wrong.append(f"the oracle failed: {error!r}")
            raise

    def _check_request(self, seen: Seen) -> Fault:
        if seen.method == "DELETE":
            self.wrong.append(f"I8: {seen.method} {seen.path}")
        if seen.writes_fact:
            self._check_write(seen)  # before the choice, which may be to kill whoever writes the ledger
        fault = self.choose(seen)
        key = "" if seen.is_preview else seen.headers.get("idempotency-key", "")
        self.log.append(f"{seen.method} {seen.path[-30:]} {key[:6]} {seen.body[-150:]!r}: {fault}")
        if key and fault not in NOT_BEGUN:
            self.sent[key] = seen.body
            self._sent_keys.add(key)
        if key:
            self._faults[key] = fault if isinstance(fault, str) else ""
        return fault

    def around(self, app: Any) -> Any:
        """The application of the server, with its responses noted."""

        async def looking(scope: Any, receive: Any, send: Any) -> None:
            seen = scope["extensions"][REQUEST]
            key = "" if seen.is_preview else seen.headers.get("idempotency-key", "")

            async def look(message: Any) -> None:
                if message.get("status") == 200 and self._faults.get(key) in ANSWERED:
                    self._answered.add(key)
                await send(message)

            await app(scope, receive, look)

        return looking

    def _check_write(self, seen: Seen) -> None:
        body, key = json.loads(seen.body), seen.headers["idempotency-key"]
        if not body.get("session_id") or not body.get("scopes") or not all(body["scopes"]):
            self.wrong.append(f"I8: a write without its session or scope: {body}")
        if self.sent.get(key, seen.body) != seen.body:
            self.wrong.append(f"I10: {self.sent[key]!r} goes again as {seen.body!r}")
        rows = self._undecided(key)
        own = [row for row in rows if row["sent_key"] == key]
        if not own or any(
            row["sent_body"].encode() != seen.body or row["server_id"] != body["session_id"] for row in own
        ):
            self.wrong.append(f"I3: not on disk as it is sent: {seen.body!r}")
            return
        for row in own:
            if row["tombstoned_at"] and key not in self.sent:
                self.wrong.append(f"I11: {row['mem0_id']} is sent although Mem0 has deleted it")
        if key not in self._answered:
            self._check_alone(own[0], rows)

    def _undecided(self, key: str) -> list[dict[str, Any]]:
        """What the ledger has under the key now, and everything that is intended."""
        with Ledger.open_for_reading(self.state) as ledger:
            return facts_of(ledger, "fact.state = 'intended' OR request.key = ?", key)

    def _check_alone(self, own: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """I6, for one write."""
        for other in rows:
            same_lane = other["lane"] == own["lane"] and other["infer"] == own["infer"] == "full"
            if other["sent_key"] == own["sent_key"] or not (same_lane or other["session"] == own["session"]):
                continue
            if other["state"] == "intended" and other["sent_key"] in self._sent_keys - self._answered:
                self.wrong.append(f"I6: {own['mem0_id']} is sent while {other['mem0_id']} is undecided")
