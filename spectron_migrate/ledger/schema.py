"""The tables. Every state a fact can be in is spelled here, and nowhere else.

    planned -> intended -> written | stored_not_extracted | refused
    beside it: skipped, undecidable

`intended` means: the bytes and the session are on disk and may have left. A fact that is intended in no
running process is in doubt. Times are the fixed-width spelling of `records.format_time`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

VERSION = 3
"""Kept in `PRAGMA user_version`. An older one is brought up to date, a newer one refused, never guessed at."""

FactState = Literal["planned", "intended", "written", "stored_not_extracted", "refused", "skipped", "undecidable"]
STORED: tuple[FactState, ...] = ("written", "stored_not_extracted")
SENT: tuple[FactState, ...] = ("intended", "written", "stored_not_extracted", "undecidable")
"""States in which bytes may be on the server: such a fact never changes its scope."""


def marks(values: Sequence[object]) -> str:
    """As many placeholders as there are values."""
    return ", ".join("?" * len(values))


DDL = """
CREATE TABLE migration(
  id TEXT PRIMARY KEY,              -- digest(context, source): a lost ledger meets its own keys again
  endpoint TEXT, context TEXT NOT NULL, principal TEXT,
  source TEXT NOT NULL,
  mapping_digest TEXT NOT NULL,
  shard INTEGER NOT NULL, shards INTEGER NOT NULL,
  scopes_listed_at TEXT,            -- the listing of scopes before we registered the first
  tool_version TEXT NOT NULL, created_at TEXT NOT NULL
) STRICT;

CREATE TABLE scan(
  id TEXT PRIMARY KEY, kind TEXT NOT NULL,
  began TEXT, ended TEXT,           -- began is NULL for raw files: nobody knows when they were read from Mem0
  complete INTEGER, manifest_digest TEXT NOT NULL
) STRICT;

CREATE TABLE plan(                  -- one merge of a dump under a mapping and filters: what a run is about
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL,        -- digest(manifest, mapping, filters): the same again needs no new merge
  scan TEXT NOT NULL REFERENCES scan(id),
  replaced INTEGER NOT NULL DEFAULT 0,  -- rows of the dump that are older than what the ledger has
  scopes INTEGER, lanes INTEGER,    -- of what it writes, counted once
  complete INTEGER NOT NULL DEFAULT 0,
  at TEXT NOT NULL
) STRICT;

CREATE TABLE memory(
  mem0_id TEXT PRIMARY KEY, record TEXT NOT NULL, digest TEXT NOT NULL,
  scan TEXT NOT NULL REFERENCES scan(id),
  expires TEXT,                     -- as Mem0 gave it: Spectron has no expiry, so it is listed
  moved_from TEXT,                  -- whose it was when it was sent, where Mem0 has it elsewhere by now
  tombstoned_at TEXT,
  is_message INTEGER NOT NULL DEFAULT 0  -- no memory of Mem0's, but what the application said
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_expires ON memory(mem0_id) WHERE expires IS NOT NULL;
CREATE INDEX memory_moved ON memory(mem0_id) WHERE moved_from IS NOT NULL;
CREATE INDEX memory_message ON memory(mem0_id) WHERE is_message;

CREATE TABLE scope(
  path TEXT PRIMARY KEY,
  listed_before INTEGER NOT NULL,   -- there before we registered anything: foreign
  intended_at TEXT,                 -- durable before the first POST /scopes for it
  registered INTEGER NOT NULL DEFAULT 0,
  created_by_us INTEGER NOT NULL DEFAULT 0   -- our own 201
) STRICT, WITHOUT ROWID;

CREATE TABLE session(
  id INTEGER PRIMARY KEY,
  selector TEXT NOT NULL, run TEXT, infer TEXT NOT NULL, part INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('opening', 'open', 'closed', 'orphan')),
  server_id TEXT UNIQUE, echo TEXT,
  created_at TEXT NOT NULL,
  UNIQUE (selector, run, infer, part)
) STRICT;
CREATE INDEX session_open ON session(selector, infer, run) WHERE state = 'open';

CREATE TABLE batch(                 -- facts that were sent in one request, under one key
  id INTEGER PRIMARY KEY,
  session INTEGER NOT NULL REFERENCES session(id),
  body TEXT NOT NULL, key TEXT NOT NULL,
  sent_after TEXT NOT NULL, sent_by TEXT NOT NULL
) STRICT;

CREATE TABLE fact(
  id INTEGER PRIMARY KEY,
  mem0_id TEXT NOT NULL, version INTEGER NOT NULL,
  text_digest TEXT NOT NULL, text_at TEXT,
  scan TEXT NOT NULL REFERENCES scan(id), recorded_at TEXT NOT NULL,
  plan INTEGER NOT NULL REFERENCES plan(id),
  lane TEXT NOT NULL, order_key TEXT NOT NULL,
  selector TEXT NOT NULL, run TEXT, infer TEXT NOT NULL,
  body TEXT NOT NULL,               -- without session_id while planned; the final bytes once intended
  key TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN
    ('planned', 'intended', 'written', 'stored_not_extracted', 'refused', 'skipped', 'undecidable')),
  reason TEXT,
  late INTEGER NOT NULL DEFAULT 0,
  session INTEGER REFERENCES session(id), position INTEGER,
  sent_after TEXT,                  -- the server's clock at the intent, a lower bound
  sent_by TEXT,                     -- the principal: the server keeps keys by it
  attempts INTEGER NOT NULL DEFAULT 0,
  turn_id TEXT, seq INTEGER, chunk_id TEXT, ids TEXT,
  decided_by TEXT,                  -- answer | turns | person
  altered INTEGER NOT NULL DEFAULT 0,
  candidate TEXT,                   -- a turn seen in the listing before the answer came
  residue TEXT,                     -- turns the server left behind for this fact, a JSON list
  batch INTEGER REFERENCES batch(id),  -- then bytes and key are those of the batch
  message TEXT,                     -- the message in whose turn this text is; then it is skipped itself
  UNIQUE (mem0_id, version), UNIQUE (session, position), UNIQUE (session, turn_id)
) STRICT;
CREATE INDEX fact_planned ON fact(lane, infer, plan, order_key) WHERE state = 'planned';
CREATE INDEX fact_intended ON fact(lane, session, position) WHERE state = 'intended';
CREATE INDEX fact_undecidable ON fact(lane) WHERE state = 'undecidable';
CREATE INDEX fact_high_water ON fact(lane, order_key) WHERE infer = 'full' AND sent_after IS NOT NULL;
CREATE INDEX fact_plan ON fact(plan, state);
CREATE INDEX fact_skipped ON fact(reason) WHERE state = 'skipped';
CREATE INDEX fact_late ON fact(state) WHERE late = 1;
CREATE INDEX fact_refused ON fact(mem0_id) WHERE state = 'refused';
CREATE INDEX fact_message ON fact(message) WHERE message IS NOT NULL;

CREATE TABLE probe(
  endpoint TEXT NOT NULL, context TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (endpoint, context, question)
) STRICT, WITHOUT ROWID;

CREATE TABLE step(                  -- what a person or a command did: erase, resolve, cutover
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL,
  who TEXT NOT NULL, at TEXT NOT NULL
) STRICT;
"""

MIGRATIONS = {
    1: """
CREATE TABLE batch(
  id INTEGER PRIMARY KEY,
  session INTEGER NOT NULL REFERENCES session(id),
  body TEXT NOT NULL, key TEXT NOT NULL,
  sent_after TEXT NOT NULL, sent_by TEXT NOT NULL
) STRICT;
ALTER TABLE fact ADD COLUMN batch INTEGER REFERENCES batch(id);
ALTER TABLE plan ADD COLUMN scopes INTEGER;
ALTER TABLE plan ADD COLUMN lanes INTEGER;
ALTER TABLE memory ADD COLUMN moved_from TEXT;
CREATE INDEX memory_moved ON memory(mem0_id) WHERE moved_from IS NOT NULL;
UPDATE plan SET (scopes, lanes) =
  (SELECT count(DISTINCT selector), count(DISTINCT lane) FROM fact WHERE fact.plan = plan.id AND state != 'skipped');
CREATE INDEX fact_skipped ON fact(reason) WHERE state = 'skipped';
CREATE INDEX fact_late ON fact(state) WHERE late = 1;
CREATE INDEX fact_refused ON fact(mem0_id) WHERE state = 'refused';
""",
    2: """
ALTER TABLE memory ADD COLUMN is_message INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fact ADD COLUMN message TEXT;
CREATE INDEX memory_message ON memory(mem0_id) WHERE is_message;
CREATE INDEX fact_message ON fact(message) WHERE message IS NOT NULL;
""",
}
"""From each older version to the next. They only add."""

ADDED: dict[int, dict[str, tuple[str, ...]]] = {
    1: {"fact": ("NULL AS batch",), "plan": ("NULL AS scopes", "NULL AS lanes"), "memory": ("NULL AS moved_from",)},
    2: {"fact": ("NULL AS message",), "memory": ("0 AS is_message",)},
}
"""What the tables of each older version lack, as a reader of today finds it."""
