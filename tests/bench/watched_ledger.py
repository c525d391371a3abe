"""`spectron-migrate`, told beside its work what its ledger spent: `ledger-spent.json` in the current folder.

In a folder that lies in memory its commits wait for no disk.
"""

from __future__ import annotations

import atexit
import json
import time
from pathlib import Path
from typing import Any

from spectron_migrate.cli import main
from spectron_migrate.ledger.writer import GroupCommit

SPENT = {"commits": 0.0, "seconds": 0.0, "processor": 0.0}
commit = GroupCommit._commit


def watched(writer: GroupCommit, group: list[Any]) -> list[Any]:
    """A commit, and what it took: by the clock, and of the processor."""
    began, used = time.monotonic(), time.thread_time()
    try:
        return commit(writer, group)
    finally:
        SPENT["commits"] += 1
        SPENT["seconds"] += time.monotonic() - began
        SPENT["processor"] += time.thread_time() - used


if __name__ == "__main__":
    GroupCommit._commit = watched  # type: ignore[method-assign, assignment]
    atexit.register(lambda: Path("ledger-spent.json").write_text(json.dumps(SPENT)))
    main()
