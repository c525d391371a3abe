"""The ledger: what was intended, what was sent, what was decided. One SQLite file, one writer.

`schema` holds the tables, `ledger` opens and guards them, `plan` and `merge` bring memories into them, `messages` those
of captured messages, `sending` moves one fact from intent to receipt, `views` reads for verification and status,
`writer` groups commits.
"""

from spectron_migrate.ledger.ledger import Ledger, MigrationRow, migration_id

__all__ = ["Ledger", "MigrationRow", "migration_id"]
