"""The ledger: what was intended, what was sent and what was decided. One SQLite file with one writer.

`schema` holds the tables; `ledger` opens the file, `sqlite` knows its engine, `upgrade` reads earlier formats. `plan`,
`merge` and `messages` bring memories into it, `sending` and `batches` move facts from intent to receipt, `writer`
groups commits. `read` answers questions.
"""

from spectron_migrate.ledger.ledger import Ledger, MigrationRow, migration_id

__all__ = ["Ledger", "MigrationRow", "migration_id"]
