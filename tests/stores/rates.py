"""Reads real stores of two sizes, bare and with our reader: rows a second, and memory that must not grow.

Usage: nice python -m tests.stores.rates [STORE…] [--rows N …]

The environments are those of `tests.stores.check`. Each reading is a process of its own, whose processor time and peak
memory the kernel reports. The bare listing asks the store for the same pages and counts the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.stores import check

STORES = ("redis", "chroma", "milvus", "milvus-lite", "mongodb")


def measured(what: str, store: str, config: dict[str, Any], rows: int) -> dict[str, float]:
    """Seconds, seconds of processor, and peak memory in MB of one reading."""
    command = [check.python_for(store), "-W", "ignore", "-m", "tests.stores.listing"]
    command += [what, check.provider_of(store), json.dumps(config)]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=check.ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert f"{rows}" == out.strip().splitlines()[-1], out
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}


def compare(store: str, rows: int, folder: Path) -> str:
    """Fill a store and read it both ways; returns one line."""
    server = folder / "server"
    server.mkdir()
    with ExitStack() as stack:
        config, _ = stack.enter_context(check.STORES[store](server))
        application = check.Application(store, config, folder)
        stack.callback(application.close)
        for begin in range(0, rows, 2000):
            application("insert", begin, min(begin + 2000, rows))
        if store == "milvus-lite":  # Lite lets nobody else in
            application.close()
        reader = measured("ours", store, config, rows)
        listing = measured("bare", store, config, rows)
    return (
        f"{store}, {rows:,} rows: reader {reader['seconds']:.1f} s ({rows / reader['seconds']:,.0f}/s, processor"
        f" {reader['cpu']:.1f} s, {reader['mb']:.0f} MB); bare listing {listing['seconds']:.1f} s"
        f" (processor {listing['cpu']:.1f} s, {listing['mb']:.0f} MB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stores", nargs="*", metavar="STORE")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 300_000])
    given = parser.parse_args()
    for store in check.prepare(given.stores or STORES):
        for rows in given.rows:
            with tempfile.TemporaryDirectory(prefix="store-") as place:
                print(compare(store, rows, Path(place)), flush=True)


if __name__ == "__main__":
    main()
