"""Brings a ledger of an earlier format up to date, in one transaction.

For SQLite only, because these formats never existed elsewhere.
"""

from __future__ import annotations

import json
import sqlite3

from spectron_migrate.ledger.schema import DDL, FORMAT
from spectron_migrate.records import canonical_json

_TO_2 = """
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
UPDATE plan SET (scopes, lanes) =
  (SELECT count(DISTINCT selector), count(DISTINCT lane) FROM fact WHERE fact.plan = plan.id AND state != 'skipped');
"""
_TO_3 = """
ALTER TABLE memory ADD COLUMN is_message INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fact ADD COLUMN message TEXT;
"""
_TABLES_OF_3 = ("migration", "scan", "plan", "memory", "scope", "session", "batch", "fact", "probe", "step")
_INDEXES_OF_3 = (
    *("memory_expires", "memory_moved", "memory_message", "session_open"),
    *("fact_planned", "fact_intended", "fact_undecidable", "fact_high_water", "fact_plan"),
    *("fact_skipped", "fact_late", "fact_refused", "fact_message"),
)

# A fact was one row with everything: its text inside the body, lists as JSON, lanes and selectors spelled out.
_FILL_4 = """
INSERT INTO migration SELECT * FROM old_migration;
INSERT INTO scan(id, kind, began, ended, complete, manifest_digest)
  SELECT id, kind, began, ended, complete, manifest_digest FROM old_scan ORDER BY rowid;
INSERT INTO plan(id, fingerprint, scan, replaced, scopes, lanes, complete, at)
  SELECT old.id, fingerprint, scan.no, replaced, scopes, lanes, old.complete, at
  FROM old_plan AS old JOIN scan ON scan.id = old.scan;
INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state, expires, moved_from, tombstoned_at,
    is_message)
  SELECT mem0_id, record, digest, scan.no,
    coalesce((SELECT max(version) FROM old_fact WHERE old_fact.mem0_id = old.mem0_id), 1),
    coalesce(json_word(record, 'state'), 'active'), expires, moved_from, tombstoned_at, is_message
  FROM old_memory AS old JOIN scan ON scan.id = old.scan;
INSERT INTO version(id, mem0_id, number, text, digest, text_at, scan, recorded_at)
  SELECT old.id, mem0_id, version, json_word(body, 'text'), text_digest, text_at, scan.no, recorded_at
  FROM old_fact AS old JOIN scan ON scan.id = old.scan ORDER BY old.id;
INSERT INTO lane(name) SELECT DISTINCT lane FROM old_fact WHERE lane != '' ORDER BY lane;
INSERT INTO selector(text)
  SELECT selector FROM old_fact WHERE selector != '[]' UNION SELECT selector FROM old_session ORDER BY selector;
INSERT INTO selector_path(path, selector)
  SELECT DISTINCT path.value, selector.no
  FROM selector, json_each(selector.text) AS clause, json_each(clause.value) AS path;
INSERT INTO scope SELECT * FROM old_scope;
INSERT INTO session(id, selector, run, infer, part, state, server_id, echo, created_at)
  SELECT old.id, selector.no, run, infer, part, state, server_id, echo, created_at
  FROM old_session AS old JOIN selector ON selector.text = old.selector;
INSERT INTO request(id, body, key, sent_after, sent_by, attempts, candidate)
  SELECT id, body, key, coalesce(sent_after, ''), coalesce(sent_by, ''), attempts, candidate FROM old_fact
  WHERE batch IS NULL AND state IN ('intended', 'undecidable');
INSERT INTO request(id, body, key, sent_after, sent_by, attempts)
  SELECT -id, body, key, sent_after, sent_by, (SELECT max(attempts) FROM old_fact WHERE old_fact.batch = old.id)
  FROM old_batch AS old WHERE EXISTS
    (SELECT 1 FROM old_fact WHERE old_fact.batch = old.id AND state IN ('intended', 'undecidable'));
INSERT INTO fact(id, plan, lane, order_key, selector, run, infer, role, category, labels, key, state, reason, late,
    session, position, batch, was_sent, message)
  SELECT old.id, plan, lane.no, order_key, selector.no, run, infer, json_word(body, 'role'),
    json_word(body, 'memory_category'), json_list(body, 'labels'), key, state, reason, late, session, position,
    CASE WHEN state IN ('intended', 'undecidable') THEN -batch END,
    sent_after IS NOT NULL, (SELECT id FROM old_fact AS whole WHERE whole.mem0_id = old.message)
  FROM old_fact AS old LEFT JOIN lane ON lane.name = old.lane LEFT JOIN selector ON selector.text = old.selector
  ORDER BY old.id;
INSERT INTO receipt(fact, session, turn_id, seq, chunk_id, decided_by, altered)
  SELECT id, session, turn_id, seq, chunk_id, coalesce(decided_by, 'answer'), altered FROM old_fact
  WHERE session IS NOT NULL AND state IN ('written', 'stored_not_extracted') ORDER BY id;
INSERT INTO extracted(fact, id)
  SELECT receipt.fact, made.value FROM receipt JOIN old_fact ON old_fact.id = receipt.fact,
    json_each(coalesce(old_fact.ids, '[]')) AS made WHERE true ON CONFLICT DO NOTHING;
INSERT INTO residue(session, turn_id, fact)
  SELECT session, left_over.value, old_fact.id FROM old_fact, json_each(residue) AS left_over
  WHERE session IS NOT NULL AND residue IS NOT NULL ON CONFLICT DO NOTHING;
INSERT INTO probe SELECT * FROM old_probe;
INSERT INTO step SELECT * FROM old_step;
"""


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Bring the ledger to the current format. Changes nothing if it is up to date."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == FORMAT:
        return
    steps = [step for step, made in ((_TO_2, 2), (_TO_3, 3)) if found < made]
    steps += [f"DROP INDEX IF EXISTS {name};" for name in _INDEXES_OF_3]
    steps += [f"ALTER TABLE {name} RENAME TO old_{name};" for name in _TABLES_OF_3]
    steps += [DDL, _FILL_4, *(f"DROP TABLE old_{name};" for name in reversed(_TABLES_OF_3))]
    connection.create_function("json_word", 2, _json_word, deterministic=True)
    connection.create_function("json_list", 2, _json_list, deterministic=True)
    connection.execute("PRAGMA foreign_keys = OFF")  # off while tables are replaced
    try:
        connection.executescript(f"BEGIN IMMEDIATE;{''.join(steps)}PRAGMA user_version = {FORMAT};COMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("PRAGMA foreign_keys = ON")


# SQLite's own functions cut a text at a zero byte.
def _json_word(text: str, name: str) -> str | None:
    value = json.loads(text).get(name) if text else None
    return value if isinstance(value, str) else None


def _json_list(text: str, name: str) -> str | None:
    value = json.loads(text).get(name) if text else None
    return canonical_json(value) if value else None
