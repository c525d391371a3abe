"""Checks the machine: disk space, a local disk for the ledger, permissions, and nothing private in git."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spectron_migrate.doctor.check import Check, Status

LEAST_FREE = 1 << 30
"""In bytes: enough for a dump, a ledger and a verification of 100,000 memories."""
TIMES_THE_DUMP = 3
"""Free space wanted, as a multiple of the dump's size: ledger and verification each hold the texts once more."""
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs"})
_GIT_TIMEOUT_S = 30


def check_machine(
    state: Path | None,
    dump: Path,
    *,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    mounts: Callable[[], Iterable[tuple[str, str]]] | None = None,
) -> Iterator[Check]:
    """Check the places of the state directory and the dump, which need not exist yet.

    `state` is None if it is in a database. `free`: free bytes at a path; `mounts`: mount point and type of each file
    system.
    """
    yield from _check_space(state, dump, free)
    folders = [dump] if state is None else [state, dump]
    if state is not None:
        yield _check_file_system(state, (mounts or _read_mounts)())
    yield from _check_permissions(folders)
    yield _check_git(folders)


def _check_space(state: Path | None, dump: Path, free: Callable[[Path], int]) -> Iterator[Check]:
    size = sum(file.stat().st_size for file in dump.glob("*") if file.is_file()) if dump.is_dir() else 0
    wanted = max(LEAST_FREE, TIMES_THE_DUMP * size)
    for what, path in (("state", state), ("dump", dump)):
        if path is None:
            continue
        folder = _nearest(path)
        if not os.access(folder, os.W_OK):
            hint = f"choose another place for the {what}"
            yield Check(f"disk: {what}", "fail", f"{folder} cannot be written to", hint)
            continue
        left = free(folder)
        if left < wanted:
            finding = f"{_mb(left)} MB are free at {folder}, about {_mb(wanted)} MB are needed"
            status: Status = "fail" if left < wanted // 10 else "warn"
            yield Check(f"disk: {what}", status, finding, "free some space before you start")
        else:
            yield Check(f"disk: {what}", "ok", f"{_mb(left)} MB are free at {folder}")


def _check_file_system(state: Path, mounts: Iterable[tuple[str, str]]) -> Check:
    """SQLite's locks do not work between hosts, so the ledger must not be on a network file system."""
    path = _nearest(state).resolve()
    containing = [(folder, kind) for folder, kind in mounts if path.is_relative_to(folder)]
    folder, kind = max(containing, key=lambda mount: len(mount[0]), default=("/", "unknown"))
    if kind in _NETWORK:
        hint = "the ledger must be on a local disk of one host: choose one with --state"
        return Check("file system", "fail", f"the state directory is on {kind} ({folder})", hint)
    return Check("file system", "ok", f"the state directory is on a local disk ({kind})")


def _check_permissions(folders: Iterable[Path]) -> Iterator[Check]:
    for path in folders:
        if path.is_dir() and path.stat().st_mode & 0o077:
            mode = path.stat().st_mode & 0o777
            finding = f"other users can read {path} (mode {mode:o}), and it contains memories"
            yield Check("privacy", "warn", finding, f"chmod 700 {path}")


def _check_git(folders: Iterable[Path]) -> Check:
    tracked = [str(path) for path in folders if path.exists() and _is_tracked(path)]
    if tracked:
        finding = f"git tracks files of {' and '.join(tracked)}, which contain memories"
        hint = f"git rm -r --cached {' '.join(tracked)}; what was pushed already is public to its readers"
        return Check("git", "fail", finding, hint)
    return Check("git", "ok", "git tracks neither the state directory nor the dump")


def _is_tracked(path: Path) -> bool:
    git = shutil.which("git")
    if git is None:
        return False
    listed = subprocess.run(  # noqa: S603 - git and a path of the settings
        [git, "-C", str(path), "ls-files", "."], capture_output=True, check=False, timeout=_GIT_TIMEOUT_S
    )
    return listed.returncode == 0 and bool(listed.stdout.strip())


def _read_mounts() -> Iterator[tuple[str, str]]:
    """Mount point and type of every mounted file system; empty if the kernel does not list them."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split(" ")
        if len(words) > 2:
            yield words[1].replace("\\040", " "), words[2]


def _nearest(path: Path) -> Path:
    """The path itself, or its nearest existing parent."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def _mb(size: int) -> int:
    return size // (1 << 20)
