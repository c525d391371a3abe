"""The tables, and expressions that several modules use.

A memory has versions, one for each different text. Each version has one fact: how, where and when that text is sent.

    planned -> intended -> written | stored_not_extracted | refused
    also: skipped, undecidable

`intended` means: the bytes and the session are on disk and may have left. A fact that is intended in no running
process is in doubt. Times are the fixed-width spelling of `records.format_time`.

The statements of this package keep to what SQLite and Postgres share. What only SQLite understands is in `DDL`,
`sqlite` and `upgrade`; `database.dialect` says what is translated for Postgres.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

FORMAT = 4
"""Kept in `PRAGMA user_version`. An older ledger is brought up to date (`upgrade`), a newer one is refused."""

FactState = Literal["planned", "intended", "written", "stored_not_extracted", "refused", "skipped", "undecidable"]
STORED: tuple[FactState, ...] = ("written", "stored_not_extracted")
SENT: tuple[FactState, ...] = ("intended", "written", "stored_not_extracted", "undecidable")
"""States in which bytes may be on the server. Such a fact never changes its scope."""
UNDECIDED: tuple[FactState, ...] = ("planned", "intended", "undecidable")
"""States in which it is not decided whether the text is in Spectron."""

FACTS = "fact JOIN version ON version.id = fact.id JOIN memory ON memory.mem0_id = version.mem0_id"
"""Every fact with its text and its memory."""
IS_CURRENT = "version.number = memory.newest_version AND memory.tombstoned_at IS NULL"
"""A condition on a row of `FACTS`: the newest text of a memory that Mem0 has. All other rows are overtaken."""
OF_ANY_PLAN = "fact.plan IN (SELECT plan.id FROM plan)"
"""True of every fact. With a condition on `state`, it lets the index `fact_plan` find the facts without a scan."""
CARRIER = "fact AS carrier ON carrier.id = coalesce(fact.message, fact.id)"
"""A join to the fact that is sent for a fact: itself, or that of the message that contains the memory."""

CONTAINS = "replace(version.text, ?, '') != version.text"
"""Whether a text contains another. The engines have different names for this function."""


def marks(values: Sequence[object]) -> str:
    """A placeholder for each value; if there are none, something that equals no value."""
    return ", ".join("?" * len(values)) or "NULL"


MOST_ROWS = 64
"""The most rows that one statement may change."""


def row_sets(rows: Sequence[tuple[int, *tuple[Any, ...]]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Rows that begin with the id of a fact, in sets of 1, 2, 4, … 64.

    So there are few different statements, which stay prepared. Sets are padded with rows that belong to no fact.
    """
    for at in range(0, len(rows), MOST_ROWS):
        part = rows[at : at + MOST_ROWS]
        size = 1 << (len(part) - 1).bit_length()
        yield [*part, *[(0, *part[0][1:])] * (size - len(part))]


def values(rows: Sequence[Sequence[object]]) -> str:
    """This many rows of placeholders, as a table."""
    return f"VALUES {', '.join([f'({marks(rows[0])})'] * len(rows))}"


def flat(rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The values for the placeholders of `values`."""
    return tuple(each for row in rows for each in row)


_TABLES = """
CREATE TABLE migration(
  id TEXT PRIMARY KEY,              -- digest(context, source): a lost ledger meets its own keys again
  endpoint TEXT, context TEXT NOT NULL, principal TEXT,
  source TEXT NOT NULL,
  mapping_digest TEXT NOT NULL,
  shard INTEGER NOT NULL, shards INTEGER NOT NULL,  -- 0 and 1; others in a ledger that an earlier version began
  scopes_listed_at TEXT,            -- the listing of scopes before we registered the first
  tool_version TEXT NOT NULL, created_at TEXT NOT NULL
){rows};

CREATE TABLE scan(
  no INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  began TEXT, ended TEXT,           -- began is NULL for raw files: nobody knows when they were read from Mem0
  complete INTEGER, manifest_digest TEXT NOT NULL,
  parent INTEGER                    -- the newest scan known here from which its dump was brought up to date
){rows};

CREATE TABLE plan(                  -- one merge of a dump under a mapping and filters: what a run is about
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL,        -- digest(manifest, mapping, filters): the same again needs no new merge
  scan INTEGER NOT NULL REFERENCES scan(no),
  replaced INTEGER NOT NULL DEFAULT 0,  -- rows of the dump that are older than what the ledger has
  scopes INTEGER, lanes INTEGER,    -- of what it writes, counted once
  complete INTEGER NOT NULL DEFAULT 0,
  at TEXT NOT NULL
){rows};

CREATE TABLE memory(
  mem0_id TEXT PRIMARY KEY,
  record TEXT NOT NULL,             -- all that Mem0 says of it, JSON
  digest TEXT NOT NULL,             -- of the record; empty: to be looked at again
  scan INTEGER NOT NULL REFERENCES scan(no),
  newest_version INTEGER NOT NULL,  -- number of its newest text
  mem0_state TEXT NOT NULL,         -- active, or why Mem0 does not show it
  expires TEXT,                     -- as Mem0 gave it: Spectron has no expiry, so it is listed
  moved_from TEXT,                  -- the ids it was sent under, where Mem0 has it under others now, JSON
  tombstoned_at TEXT,
  tombstoned_by INTEGER,            -- the scan whose plan set it
  is_message INTEGER NOT NULL DEFAULT 0  -- not a memory of Mem0's but a message of the application's
){rows};                            -- not laid out by its key: records are long, and ids random
CREATE INDEX memory_expires ON memory(mem0_id) WHERE expires IS NOT NULL;
CREATE INDEX memory_moved ON memory(mem0_id) WHERE moved_from IS NOT NULL;
CREATE INDEX memory_message ON memory(mem0_id) WHERE is_message = 1;

CREATE TABLE version(               -- one text of a memory
  id INTEGER PRIMARY KEY,
  mem0_id TEXT NOT NULL, number INTEGER NOT NULL,
  text TEXT,                        -- NULL where the mapping never gave it a place
  digest TEXT NOT NULL, text_at TEXT,
  scan INTEGER NOT NULL REFERENCES scan(no), recorded_at TEXT NOT NULL,
  UNIQUE (mem0_id, number)
){rows};

CREATE TABLE pending(               -- a text of which nobody knows whether it is newer than the ledger's last one
  mem0_id TEXT NOT NULL, scan INTEGER NOT NULL REFERENCES scan(no),
  version INTEGER NOT NULL,         -- the last one at that time
  record TEXT NOT NULL,             -- the memory with that text, JSON
  plan INTEGER NOT NULL,
  is_older INTEGER NOT NULL DEFAULT 0,  -- a person said so
  PRIMARY KEY (mem0_id, scan)
){keyed};

CREATE TABLE lane(no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE){rows};
CREATE TABLE selector(no INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE){rows};  -- canonical JSON of its clauses
CREATE TABLE selector_path(path TEXT NOT NULL, selector INTEGER NOT NULL, PRIMARY KEY (path, selector)){keyed};

CREATE TABLE scope(
  path TEXT PRIMARY KEY,
  listed_before INTEGER NOT NULL,   -- there before we registered anything: foreign
  intended_at TEXT,                 -- durable before the first POST /scopes for it
  registered INTEGER NOT NULL DEFAULT 0,
  created_by_us INTEGER NOT NULL DEFAULT 0   -- our own 201
){keyed};

CREATE TABLE session(
  id INTEGER PRIMARY KEY,
  selector INTEGER NOT NULL REFERENCES selector(no), run TEXT, infer TEXT NOT NULL, part INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('opening', 'open', 'closed', 'orphan')),
  server_id TEXT UNIQUE, echo TEXT,
  created_at TEXT NOT NULL,
  UNIQUE (selector, run, infer, part)
){rows};
CREATE INDEX session_open ON session(selector, infer, run) WHERE state = 'open';

CREATE TABLE request(               -- bytes that may have left, until what became of them is decided
  id INTEGER PRIMARY KEY,           -- the fact's; of a batch, which several facts share, a number below 0
  body TEXT NOT NULL, key TEXT NOT NULL,
  sent_after TEXT NOT NULL,         -- the server's clock at the intent, a lower bound
  sent_by TEXT NOT NULL,            -- the principal: the server keeps keys by it
  attempts INTEGER NOT NULL DEFAULT 0,
  candidate TEXT                    -- a turn seen in the listing before the answer came
){rows};

CREATE TABLE fact(                  -- how a version is sent
  id INTEGER PRIMARY KEY REFERENCES version(id),
  plan INTEGER NOT NULL REFERENCES plan(id),
  lane INTEGER REFERENCES lane(no), order_key TEXT NOT NULL,
  selector INTEGER REFERENCES selector(no), run TEXT, infer TEXT NOT NULL,
  role TEXT, category TEXT, labels TEXT,  -- what else its request says
  key TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN
    ('planned', 'intended', 'written', 'stored_not_extracted', 'refused', 'skipped', 'undecidable')),
  reason TEXT,
  late INTEGER NOT NULL DEFAULT 0,
  session INTEGER REFERENCES session(id), position INTEGER,
  batch INTEGER,                    -- its request, where it is not sent alone
  was_sent INTEGER NOT NULL DEFAULT 0,
  message INTEGER,                  -- the message's fact in whose turn this text is; then it is skipped itself
  UNIQUE (session, position)
){rows};
CREATE INDEX fact_planned ON fact(lane, infer, plan, order_key) WHERE state = 'planned';
CREATE INDEX fact_intended ON fact(lane, session, position) WHERE state = 'intended';
CREATE INDEX fact_undecidable ON fact(lane) WHERE state = 'undecidable';
CREATE INDEX fact_high_water ON fact(lane, order_key) WHERE infer = 'full' AND was_sent = 1;
CREATE INDEX fact_plan ON fact(plan, state);
CREATE INDEX fact_skipped ON fact(reason) WHERE state = 'skipped';
CREATE INDEX fact_late ON fact(state) WHERE late = 1;
CREATE INDEX fact_refused ON fact(id) WHERE state = 'refused';
CREATE INDEX fact_batch ON fact(batch) WHERE batch IS NOT NULL;
CREATE INDEX fact_message ON fact(message) WHERE message IS NOT NULL;

CREATE TABLE receipt(               -- what Spectron, or a person, said of a fact that is stored
  fact INTEGER PRIMARY KEY,
  session INTEGER NOT NULL,
  turn_id TEXT, seq INTEGER, chunk_id TEXT,
  decided_by TEXT NOT NULL,         -- answer | turns | person
  altered INTEGER NOT NULL DEFAULT 0,
  UNIQUE (turn_id, session)
){rows};
CREATE INDEX receipt_chunk ON receipt(chunk_id);
CREATE TABLE extracted(             -- entities and attributes that the extraction of a fact made or touched
  fact INTEGER NOT NULL, id TEXT NOT NULL, PRIMARY KEY (fact, id)
){keyed};
CREATE INDEX extracted_id ON extracted(id);
CREATE VIEW receipt_id(id, fact) AS -- every id of Spectron's, and the facts that it was made of
  SELECT turn_id, fact FROM receipt UNION ALL SELECT chunk_id, fact FROM receipt
  UNION ALL SELECT id, fact FROM extracted;
CREATE TABLE residue(               -- turns that the server left behind for a fact, beside the one it answered with
  session INTEGER NOT NULL, turn_id TEXT NOT NULL, fact INTEGER NOT NULL, PRIMARY KEY (session, turn_id)
){keyed};
CREATE INDEX residue_fact ON residue(fact);

CREATE TABLE probe(
  endpoint TEXT NOT NULL, context TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (endpoint, context, question)
){keyed};

CREATE TABLE step(                  -- what a person or a command did: erase, resolve, cutover
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL,
  who TEXT NOT NULL, at TEXT NOT NULL
){rows};
"""

DDL = _TABLES.format(rows=" STRICT", keyed=" STRICT, WITHOUT ROWID")
"""The tables as SQLite makes them: `STRICT` checks types, `WITHOUT ROWID` stores a table in the order of its key."""
TABLES = _TABLES.format(rows="", keyed="")
"""The tables as `database.dialect` expects them for Postgres."""
