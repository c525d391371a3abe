"""Statements that Postgres is told in other words."""

from __future__ import annotations

from spectron_migrate.database.dialect import for_many_rows, parts_of


def test_an_insert_of_one_row_is_told_as_one_of_several() -> None:
    assert "INSERT INTO t(a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING" == for_many_rows(
        "INSERT INTO t(a, b) VALUES (?, ?) ON CONFLICT DO NOTHING", 2
    )


def test_other_statements_are_run_row_by_row() -> None:
    assert for_many_rows("UPDATE t SET a = ? WHERE b = ?", 2) is None
    assert for_many_rows("INSERT INTO t(a) SELECT ? FROM u", 2) is None
    assert for_many_rows("INSERT INTO t(a, b) VALUES (?, 'x')", 2) is None
    # Postgres changes no row twice in one statement.
    assert for_many_rows("INSERT INTO t(a) VALUES (?) ON CONFLICT (a) DO UPDATE SET a = 1", 2) is None


def test_rows_go_in_parts_of_few_sizes() -> None:
    assert [64, 64, 4, 2, 1] == [len(part) for part in parts_of(range(135))]
    assert list(range(135)) == [each for part in parts_of(range(135)) for each in part]
    assert [] == list(parts_of([]))
