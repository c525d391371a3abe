"""`python -m spectron_migrate.local`: prints the base URL once it answers. The key is `SPECTRON_API_KEY`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from spectron_migrate.local.engine import NEWEST, ContractReading
from spectron_migrate.local.faults import Faults, FaultSettings
from spectron_migrate.local.server import StoreRefused, serve

PATIENCE_S = 10.0
"""How long requests under way may take once the parent is gone."""


def main() -> int:
    """Serve until a signal; exit code 2 and one sentence if the server cannot start."""
    parser = argparse.ArgumentParser(prog="python -m spectron_migrate.local", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--context", default="local")
    parser.add_argument("--no-extraction", action="store_true")
    parser.add_argument("--api", default=NEWEST)
    parser.add_argument(
        "--more",
        action="store_true",
        help="read more options of create_app from stdin, as one line of JSON, and end when it is closed",
    )
    options = parser.parse_args()
    more = json.loads(sys.stdin.readline()) if options.more else {}
    if options.more:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if "reading" in more:
            more["reading"] = ContractReading(**more["reading"])
        if "fault_settings" in more:
            more["faults"] = Faults(FaultSettings(**more.pop("fault_settings")))
        serve(
            host=options.host,
            port=options.port,
            data=options.data,
            context=options.context,
            api_key=os.environ.get("SPECTRON_API_KEY") or "sk-local",
            extraction=not options.no_extraction,
            api=options.api,
            ready=lambda url: print(url, flush=True),  # noqa: T201 - the only output
            **more,
        )
    except (OSError, ValueError, TypeError, StoreRefused) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _end_with_parent() -> None:
    """End the process when its parent is gone, however that ended: then nobody holds the other end of stdin."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
