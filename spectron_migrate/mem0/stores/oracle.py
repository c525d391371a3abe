"""A table of Oracle (oracledb), read with the driver in one read-only transaction, which is a snapshot.

One cursor reads all rows. The order in which Oracle sorts texts depends on the language of the session, so pages by the
key could leave out rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver
from spectron_migrate.mem0.stores.oss_config import VectorStore, oracle_location

_PAGE = 1000
_OF_A_POOL = (
    *("min", "max", "increment", "connectiontype", "getmode", "homogeneous", "timeout", "wait_timeout"),
    *("max_lifetime_session", "max_sessions_per_shard", "session_callback", "soda_metadata_cache", "ping_interval"),
    *("ping_timeout", "pool_class"),
)
"""Parameters that are only for a pool of connections. Mem0 opens a pool, this reader a single connection."""
_PARTS = re.compile(r'"([^"]+)"|([^".]+)')
_REFUSED = ("ORA-01017", "ORA-01031", "ORA-01045", "ORA-28000", "ORA-28001")
_UNREACHABLE = ("DPY-60", "DPY-4011", "ORA-125", "ORA-12170", "ORA-03113", "ORA-03114", "ORA-12154")
_TABLES = (
    "SELECT owner, table_name FROM all_tab_columns WHERE column_name IN ('ID', 'PAYLOAD')"
    " GROUP BY owner, table_name HAVING count(*) = 2"
)


class Oracle(ListedStore):
    """One table of memories."""

    kind = "table"

    def __init__(self, store: VectorStore) -> None:
        """Connect; raises InputError without the driver or the parameters of a connection."""
        given = store.settings.get("connection_params")
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                "oracledb needs `connection_params` in the configuration: a section with user, password and dsn",
                hint="give those that your application passes to Mem0; the user needs SELECT on the table, no more",
            )
        super().__init__(store.collection, f"at {oracle_location(store.settings)}")
        credentials = str(given.get("dsn") or "").rpartition("@")[0]
        self._secrets = [one for one in (credentials, str(given.get("password") or "")) if one]
        try:
            import oracledb
        except ImportError as error:
            raise missing_driver("oracledb", "oracle") from error
        self._driver = oracledb
        try:
            self._db = self._connect(given)
            self._schema = str(self._all("SELECT sys_context('USERENV', 'CURRENT_SCHEMA') FROM dual")[0][0])
        except oracledb.Error as error:
            raise self._error(error) from error
        parts: list[str] = [quoted or plain for quoted, plain in _PARTS.findall(store.collection)]
        self._owner, self._table = (self._schema, parts[0]) if len(parts) == 1 else (parts[0], parts[-1])
        self._quoted = ".".join(f'"{part}"' for part in parts)

    def exists(self) -> bool:
        return (self._owner, self._table) in self._all(_TABLES)

    def names(self) -> list[str]:
        """Tables with an id and a payload. Tables of other users have the owner in their name."""
        return [name if owner == self._schema else f"{owner}.{name}" for owner, name in self._all(_TABLES)]

    def count(self) -> int:
        return int(self._all(f"SELECT count(*) FROM {self._quoted}")[0][0])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        self._db.rollback()  # read-only can only be set at the beginning of a transaction
        with self._db.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            try:
                self.held = self.count()
                cursor.arraysize = _PAGE
                cursor.execute(f"SELECT id, payload FROM {self._quoted}")
                while page := cursor.fetchmany(_PAGE):
                    yield [Row(row_id, row_id, _plain(held)) for row_id, held in page]
            finally:
                self._end()

    def may_write(self) -> bool:
        if self._owner == self._schema:
            return True
        granted = self._all(
            "SELECT privilege FROM user_tab_privs WHERE owner = :1 AND table_name = :2", self._owner, self._table
        )
        return not {"INSERT", "UPDATE", "DELETE"}.isdisjoint(row[0] for row in granted)

    def explained(self, error: Exception) -> MigrateError | None:
        return self._error(error) if isinstance(error, self._driver.Error) else None

    def close(self) -> None:
        self._end()
        if self._db is not None:
            self._db.close()
            self._db = None

    _db: Any = None

    def _connect(self, given: Mapping[str, Any]) -> Any:
        """Open one connection; raises InputError for parameters that the driver does not take."""
        try:
            return self._driver.connect(**{name: value for name, value in given.items() if name not in _OF_A_POOL})
        except (TypeError, ValueError) as error:  # an unknown name, or a value of another type
            raise InputError(
                f"the driver oracledb refuses `connection_params`: {self._without_password(error)}",
                hint="give those that your application passes to Mem0",
            ) from error
        except OSError as error:  # the host name is unknown
            raise Unreachable(f"the database {self.where} cannot be reached: {error}", hint="check the dsn") from error

    def _without_password(self, error: Exception) -> str:
        """The first line of an error, without the password: the driver quotes the whole dsn, which may contain one."""
        text = str(error).partition("\n")[0]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _end(self) -> None:
        """End the transaction. A lost connection has none."""
        try:
            if self._db is not None:
                self._db.rollback()
        except self._driver.Error:
            self._db = None

    def _all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._db.cursor() as cursor:
            cursor.execute(sql, list(values))
            return list(cursor.fetchall())

    def _error(self, error: Exception) -> MigrateError:
        text = self._without_password(error)
        code = str(getattr(error.args[0] if error.args else None, "full_code", "") or text.partition(":")[0])
        if code in _REFUSED:
            return KeyRefused(f"the database {self.where} refuses this user: {text}", hint="it needs SELECT, no more")
        if code.startswith(_UNREACHABLE):
            return Unreachable(f"the database {self.where} cannot be reached: {text}", hint="check the dsn")
        return InputError(f"the database {self.where} cannot be read: {text}")


def _plain(value: Any) -> Any:
    """A value of Oracle's JSON as Mem0 wrote it. Oracle's numbers and times have types of their own."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
