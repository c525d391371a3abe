"""A Milvus server from its wheel: run as a process of the environment that has it.

Usage: python -m tests.stores.milvus_server FOLDER; prints one line of JSON, `{"port", "metrics"}`, and serves until
standard input ends. It listens on all interfaces, and only one can run at a time.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from milvus import MilvusServer  # type: ignore[import-not-found,unused-ignore]

    server = MilvusServer(data_dir=sys.argv[1])
    server.start()
    try:
        print(json.dumps({"port": server.listen_port, "metrics": server.webservice_port}), flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
