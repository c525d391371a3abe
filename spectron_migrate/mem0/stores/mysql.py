"""A table of MySQL (azure_mysql), or of MariaDB, with SQL: one snapshot, page by page in the order of its key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver
from spectron_migrate.mem0.stores.mysql_changes import BEGIN, KnownRows, MySqlChanges, by_span, span_of, spans_for, sums
from spectron_migrate.mem0.stores.oss_config import VectorStore

if TYPE_CHECKING:
    import pymysql

_PAGE = 1000
_REFUSED = (1044, 1045, 1142, 1143, 1227)
_UNREACHABLE = (2002, 2003, 2005, 2006, 2013, 2055)


class MySql(ListedStore):
    """One table of memories."""

    kind = "table"

    def __init__(self, store: VectorStore) -> None:
        """Connect; raises InputError without the driver."""
        settings = store.settings
        where = f"{settings.get('host')}:{settings.get('port') or 3306}/{settings.get('database')}"
        super().__init__(store.collection, f"at {where}")
        self._known: KnownRows | None = None
        """What the last reading of everything saw, if later changes can be told."""
        self._is_taken_over = False
        self._table = "`" + store.collection.replace("`", "``") + "`"
        try:
            import pymysql
        except ImportError as error:
            raise missing_driver("PyMySQL", "mysql") from error
        try:
            self._db = _connect(store)
        except pymysql.MySQLError as error:
            raise self._error(error) from error

    def exists(self) -> bool:
        return self.name in self.names()

    def names(self) -> list[str]:
        """Tables with an id and a payload."""
        listed = self._all(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = database() "
            "AND column_name IN ('id', 'payload') GROUP BY table_name HAVING count(*) = 2"
        )
        return [row[0] for row in listed]

    def count(self) -> int:
        return int(self._all(f"SELECT count(*) FROM {self._table}")[0][0])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        self._known = None
        self._all(BEGIN)
        try:
            self.held = self.count()
            known = KnownRows(spans_for(self.held))
            columns = f"SELECT id, payload, {span_of(known.spans)} FROM {self._table}"
            page = self._all(f"{columns} ORDER BY id LIMIT {_PAGE}")
            while page:
                known.add([(int(span), row_id) for row_id, _, span in page])
                yield [Row(row_id, row_id, text) for row_id, text, _ in page]
                page = self._all(f"{columns} WHERE id > %s ORDER BY id LIMIT {_PAGE}", page[-1][0])
            self._known = self._summed(known)
        finally:
            if self._db.open:
                self._db.rollback()

    def _summed(self, known: KnownRows) -> KnownRows | None:
        """The rows of the snapshot with their sums; None if this server does not compute them."""
        import pymysql

        try:
            known.sums = by_span(self._all(sums(self._table, known.spans)))
        except (pymysql.MySQLError, TypeError, ValueError):
            return None
        return known if sum(rows for rows, *_ in known.sums.values()) == self.held else None

    def changes(self, history: HistoryFile | None) -> ChangesReader | None:
        """Changes are read by the same connection, which is taken over; see `mysql_changes`."""
        if self._known is None:
            return None
        self._is_taken_over = True
        return MySqlChanges(self._all, self._db.rollback, self._close, self._table, self._known, history)

    def may_write(self) -> bool:
        granted = " ".join(row[0] for row in self._all("SHOW GRANTS FOR CURRENT_USER()"))
        rights = granted.upper().replace(" ON ", ",").replace("GRANT ", ",").replace(" ", "").split(",")
        return not {"ALLPRIVILEGES", "INSERT", "UPDATE", "DELETE"}.isdisjoint(rights)

    def explained(self, error: Exception) -> MigrateError | None:
        import pymysql

        return self._error(error) if isinstance(error, pymysql.MySQLError) else None

    def close(self) -> None:
        if not self._is_taken_over:
            self._close()

    def _close(self) -> None:
        if self._db.open:
            self._db.close()

    def _all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._db.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def _error(self, error: Exception) -> MigrateError:
        """Our error; the driver's messages contain no password."""
        code = error.args[0] if error.args else None
        text = " ".join(str(each) for each in error.args)
        if code in _REFUSED:
            return KeyRefused(f"the database {self.where} refuses this user: {text}", hint="it needs SELECT, no more")
        if code in _UNREACHABLE or code == 0:
            return Unreachable(f"the database {self.where} cannot be reached: {text}", hint="check host and port")
        return InputError(f"the database {self.where} cannot be read: {text}")


def _connect(store: VectorStore) -> pymysql.Connection[Any]:
    import pymysql

    settings = store.settings
    if settings.get("use_azure_credential") and not settings.get("password"):
        raise InputError(
            "the configuration takes its password from Azure's login",
            hint="put a token into it: password: ${TOKEN} with TOKEN=$(az account get-access-token "
            "--resource-type oss-rdbms --query accessToken -o tsv)",
        )
    tls: dict[str, Any] = {"ssl_disabled": True} if settings.get("ssl_disabled") else {}
    if settings.get("ssl_ca"):
        tls = {"ssl_ca": str(settings["ssl_ca"]), "ssl_verify_cert": True}
    return pymysql.connect(
        host=str(settings.get("host") or "localhost"),
        port=int(settings.get("port") or 3306),
        user=str(settings.get("user") or ""),
        password=str(settings.get("password") or ""),
        database=str(settings.get("database") or ""),
        charset="utf8mb4",
        connect_timeout=15,
        read_timeout=300,
        autocommit=True,
        # At any other level, which may be the server's default, `BEGIN` takes no snapshot.
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        **tls,
    )
