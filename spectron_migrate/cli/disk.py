"""Disk errors as a user sees them: one sentence that names the path, wherever they occurred."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from spectron_migrate.errors import InputError, MigrateError, Unreachable

_LASTING = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
"""Errors that last until a person does something about the path."""
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}
"""Errors of a file system that may answer again, such as a network drive, or too many open files."""
_WITHOUT_PATH = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}
"""Errors that come from a disk even if Python names no path, as for a write to an open file."""
_NO_TEMPORARY_DIRECTORY = "No usable temporary directory"
"""The start of Python's error, which is one about a missing file without a name."""
_AS_PYTHON_LOOKS = "none of TMPDIR, /tmp, /var/tmp and this directory takes a file"
_OF_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def disk_error(error: BaseException, *, state: Path) -> MigrateError | None:
    """The error that a user sees for an error of the disk; None for any other error.

    `state`: the directory to name if the error names no path.
    """
    if isinstance(error, BaseExceptionGroup):
        found = (disk_error(each, state=state) for each in error.exceptions)
        return next((each for each in found if each is not None), None)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return _sentence(state, str(error), code == sqlite3.SQLITE_IOERR) if code in _OF_SQLITE else None
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    if error.filename is None and str(error.strerror).startswith(_NO_TEMPORARY_DIRECTORY):
        return _sentence("the directory for temporary files", _AS_PYTHON_LOOKS, may_pass=False)
    if error.filename is None and error.errno not in _WITHOUT_PATH:
        return None
    if error.errno not in _LASTING | _PASSING:
        return None
    named = error.filename2 or error.filename or state
    path = named.decode(errors="replace") if isinstance(named, bytes) else str(named)
    return _sentence(path, error.strerror or type(error).__name__, error.errno in _PASSING)


def _sentence(path: Path | str, reason: str, may_pass: bool) -> MigrateError:
    kind = Unreachable if may_pass else InputError
    return kind(
        f"cannot read or write {path}: {reason[:1].lower()}{reason[1:]}",
        hint="is there room, and may you write there? what was recorded is kept, and running again is safe",
    )
