"""Reads the CSV files that fill a field of a template, such as the tenant of each user."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from spectron_migrate.mapping.rules import LookupTable
from spectron_migrate.settings.strict_yaml import Problems, shown


def read_lookup_table(folder: Path, file: str, key: str, value: str, where: str, problems: Problems) -> LookupTable:
    """The table of a CSV file with the columns `key` and `value`.

    Problems with it go into `problems`. `where` is the line of the mapping that names the file.
    """
    try:
        text = (folder / file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add(where, f"{shown(file)} is not UTF-8 text")
        return LookupTable(file, key, value, {})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problems.add(where, f"cannot read {shown(file)}: {reason}")
        return LookupTable(file, key, value, {})
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    table: dict[str, str] = {}
    try:
        missing = [name for name in (key, value) if name not in (rows.fieldnames or ())]
        for name in missing:
            problems.add(f"{shown(file)}:1", f"no column `{shown(name)}`")
        for row in rows if not missing else ():
            _add_row(table, row[key], row[value], key, value, f"{shown(file)}:{rows.line_num}", problems)
    except csv.Error as error:
        problems.add(f"{shown(file)}:{rows.reader.line_num}", f"not CSV: {error}")
    return LookupTable(file, key, value, table)


def _add_row(
    table: dict[str, str], field: str, result: str, key: str, value: str, where: str, problems: Problems
) -> None:
    if not field or not result:
        problems.add(where, f"no `{shown(value if field else key)}`")
    elif table.setdefault(field, result) != result:
        problems.add(where, f"two values for one `{shown(key)}`")
