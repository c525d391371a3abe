"""Writes report files. `.json` and `.html` hold texts and say so; `.md` and `.xml` are for sharing and hold none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import replace_file
from spectron_migrate.records import Json
from spectron_migrate.verify.reports.json_file import json_report
from spectron_migrate.verify.reports.junit import junit_report
from spectron_migrate.verify.reports.markdown import markdown_report
from spectron_migrate.verify.reports.page import html_report


def check_paths(paths: Iterable[Path]) -> None:
    """Raises InputError, naming every report that could not be written."""
    problems = []
    for path in paths:
        if path.suffix not in _REPORTS:
            problems.append(f"{path} has no suffix of a report: known are {', '.join(_REPORTS)}")
        elif path.is_dir():
            problems.append(f"{path} is a directory")
        elif path.parent.exists() and not os.access(path.parent, os.W_OK):
            problems.append(f"{path.parent} cannot be written to")
    if problems:
        raise InputError.of_all(list(dict.fromkeys(problems)))


def write_reports(report: Mapping[str, Json], paths: Iterable[Path], *, texts: bool) -> tuple[str, ...]:
    """Write each report in the format of its suffix, atomically and with mode 0600; returns the paths.

    `texts` lets `.md` and `.xml` hold texts too.
    """
    written = []
    for path in paths:
        _write(path, _REPORTS[path.suffix](report, texts))
        written.append(str(path))
    return tuple(written)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode("utf-8", "backslashreplace"))


_REPORTS: dict[str, Callable[[Mapping[str, Json], bool], str]] = {
    ".json": lambda report, texts: json_report(report),
    ".md": lambda report, texts: markdown_report(report, texts=texts),
    ".html": lambda report, texts: html_report(report),
    ".xml": lambda report, texts: junit_report(report, texts=texts),
}
