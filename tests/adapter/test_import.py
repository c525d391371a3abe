"""Importing the adapter costs an application next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("typer", "rich", "tqdm", "mem0", "aiohttp", "httpx", "numpy", "qdrant_client", "starlette", "rapidfuzz")


def test_importing_the_adapter_loads_no_command_line_no_mem0_and_no_http_client() -> None:
    code = (
        "import json, sys\nfrom spectron_migrate import AsyncMemoryAdapter, MemoryAdapter, NotInSpectron\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert [] == json.loads(told)
