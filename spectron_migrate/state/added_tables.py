"""The tables of the memories that were added after `complete`: in `since.db`, or in the schema of a state in Postgres.

Standard library alone, because applications import this.
"""

from __future__ import annotations

NAME = "since"
COLUMNS = {
    "memory": ("id", "user_id", "agent_id", "run_id", "app_id", "record"),
    "placed": ("memory", "selector"),
    "made": ("row", "memory"),
}
_TABLES = """
CREATE TABLE IF NOT EXISTS {prefix}memory(
  id TEXT PRIMARY KEY, user_id TEXT, agent_id TEXT, run_id TEXT, app_id TEXT, record TEXT NOT NULL
){keyed};
CREATE INDEX IF NOT EXISTS {prefix}memory_user ON {prefix}memory(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {prefix}memory_agent ON {prefix}memory(agent_id) WHERE agent_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS {prefix}memory_run ON {prefix}memory(run_id) WHERE run_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS {prefix}placed(memory TEXT PRIMARY KEY, selector TEXT NOT NULL){keyed};
CREATE TABLE IF NOT EXISTS {prefix}made(row TEXT NOT NULL, memory TEXT NOT NULL, PRIMARY KEY (row, memory)){keyed};
"""
DDL = _TABLES.format(prefix="", keyed=" STRICT, WITHOUT ROWID")
"""The tables for a SQLite file of their own."""
SHARED = _TABLES.format(prefix=f"{NAME}_", keyed="")
"""The tables for a schema, as `database.dialect` expects them for Postgres."""
