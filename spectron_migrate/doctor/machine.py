"""The machine: is there room, is the ledger on a disk of this host, and is nothing private on its way into git."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spectron_migrate.doctor.check import Check

LEAST_FREE = 1 << 30
"""Bytes: a dump, a ledger and a verification of a hundred thousand memories."""
TIMES_THE_DUMP = 3
"""A ledger and the workspace of a verification each hold the texts once more."""
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs"})


def check_machine(
    state: Path,
    dump: Path,
    *,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    mounts: Callable[[], Iterable[tuple[str, str]]] | None = None,
) -> Iterator[Check]:
    """Look at where state directory and dump are, or will be. `free` in bytes; `mounts`: folder and kind."""
    yield from _room(state, dump, free)
    yield _local(state, (mounts or _mounts)())
    yield from _private(state, dump)
    yield _git(state, dump)


def _room(state: Path, dump: Path, free: Callable[[Path], int]) -> Iterator[Check]:
    size = sum(file.stat().st_size for file in dump.glob("*") if file.is_file()) if dump.is_dir() else 0
    needed = max(LEAST_FREE, TIMES_THE_DUMP * size)
    for what, path in (("state", state), ("dump", dump)):
        there = _nearest(path)
        if not os.access(there, os.W_OK):
            yield Check(f"disk: {what}", "fail", f"{there} cannot be written to", f"name another place for the {what}")
            continue
        left = free(there)
        if left < needed:
            said = f"{_mb(left)} MB are free at {there}, about {_mb(needed)} MB are wanted"
            yield Check(f"disk: {what}", "fail" if left < needed // 10 else "warn", said, "make room before it starts")
        else:
            yield Check(f"disk: {what}", "ok", f"{_mb(left)} MB are free at {there}")


def _local(state: Path, mounts: Iterable[tuple[str, str]]) -> Check:
    """SQLite's locks do not hold between hosts."""
    place = _nearest(state).resolve()
    above = [(folder, kind) for folder, kind in mounts if place.is_relative_to(folder)]
    folder, kind = max(above, key=lambda mount: len(mount[0]), default=("/", "unknown"))
    if kind in _NETWORK:
        hint = "the ledger belongs on a local disk of one host: name one with --state"
        return Check("file system", "fail", f"the state directory is on {kind} ({folder})", hint)
    return Check("file system", "ok", f"the state directory is on a disk of this host ({kind})")


def _private(state: Path, dump: Path) -> Iterator[Check]:
    for path in (state, dump):
        if path.is_dir() and path.stat().st_mode & 0o077:
            said = f"{path} can be read by others (mode {path.stat().st_mode & 0o777:o}), and holds memories"
            yield Check("privacy", "warn", said, f"chmod 700 {path}")


def _git(state: Path, dump: Path) -> Check:
    tracked = [str(path) for path in (state, dump) if path.exists() and _is_tracked(path)]
    if tracked:
        said = f"git tracks files of {' and '.join(tracked)}, which hold memories"
        return Check("git", "fail", said, f"git rm -r --cached {' '.join(tracked)}; what was pushed is out already")
    return Check("git", "ok", "neither state nor dump is tracked by git")


def _is_tracked(path: Path) -> bool:
    git = shutil.which("git")
    if git is None:
        return False
    listed = subprocess.run(  # noqa: S603 - git and a path of ours
        [git, "-C", str(path), "ls-files", "."], capture_output=True, check=False, timeout=30
    )
    return listed.returncode == 0 and bool(listed.stdout.strip())


def _mounts() -> Iterator[tuple[str, str]]:
    """Folder and kind of every mounted file system, where the kernel tells."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split(" ")
        if len(words) > 2:
            yield words[1].replace("\\040", " "), words[2]


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def _mb(size: int) -> int:
    return size // (1 << 20)
