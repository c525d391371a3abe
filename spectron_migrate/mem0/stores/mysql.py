"""A table of MySQL (azure_mysql), or of MariaDB, with SQL: one snapshot, page by page in the order of its key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver
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
        columns = f"SELECT id, payload FROM {self._table}"
        self._all("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        try:
            self.held = self.count()
            page = self._all(f"{columns} ORDER BY id LIMIT {_PAGE}")
            while page:
                yield [Row(row_id, row_id, text) for row_id, text in page]
                page = self._all(f"{columns} WHERE id > %s ORDER BY id LIMIT {_PAGE}", page[-1][0])
        finally:
            if self._db.open:
                self._db.rollback()

    def may_write(self) -> bool:
        granted = " ".join(row[0] for row in self._all("SHOW GRANTS FOR CURRENT_USER()"))
        rights = granted.upper().replace(" ON ", ",").replace("GRANT ", ",").replace(" ", "").split(",")
        return not {"ALLPRIVILEGES", "INSERT", "UPDATE", "DELETE"}.isdisjoint(rights)

    def explained(self, error: Exception) -> MigrateError | None:
        import pymysql

        return self._error(error) if isinstance(error, pymysql.MySQLError) else None

    def close(self) -> None:
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
        **tls,
    )
