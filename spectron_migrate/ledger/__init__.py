"""The ledger: what was intended, what was sent and what was decided.

An SQLite file with one writer, or tables in Postgres. `schema` holds the tables; `ledger` opens it, `sqlite` and
`shared` know the engines, `upgrade` reads earlier formats. `plan`, `merge` and `messages` bring memories into it,
`sending` and `batches` move facts from intent to receipt, `writer` groups commits. `read` answers questions.
"""

from spectron_migrate.ledger.ledger import Ledger, MigrationRow, migration_id

__all__ = ["Ledger", "MigrationRow", "migration_id"]
