"""`spectron-migrate`, told beside its work what its ledger spent: `ledger-spent.json` in the current folder.

In a folder that lies in memory its commits wait for no disk.
"""

from __future__ import annotations

import atexit
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from spectron_migrate.cli import main
from spectron_migrate.ledger.writer import GroupCommit

SPENT: Counter[str] = Counter()
commit = GroupCommit._commit


def watched(writer: GroupCommit, group: list[Any]) -> list[Any]:
    """A commit, and what it took: by the clock, and of the processor."""
    began, used = time.monotonic(), time.thread_time()
    try:
        return commit(writer, group)
    finally:
        SPENT.update(commits=1, seconds=time.monotonic() - began, processor=time.thread_time() - used)


if __name__ == "__main__":
    GroupCommit._commit = watched  # type: ignore[method-assign]
    atexit.register(lambda: Path("ledger-spent.json").write_text(json.dumps(SPENT)))
    main()
