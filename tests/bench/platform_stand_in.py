"""A Platform of any size that stores no rows: each is generated from its number when a page is requested.

Row `n` was created `n` seconds after the beginning of 2020, so that a window of time is a range of numbers and
neither a count nor a page costs more in a large project than in a small one.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
PAGE = 200


def item(number: int, users: int) -> dict[str, Any]:
    moment = (BEGINNING + timedelta(seconds=number)).isoformat()
    return {
        "id": f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}",
        "memory": f"user {number % users} prefers green tea in the morning and runs Postgres at night ({number})",
        "user_id": f"user-{number % users}",
        "agent_id": None,
        "app_id": None,
        "session_id": f"run-{number % 1000}",
        "metadata": {"topic": "drink", "seq": number, "tags": ["import", "drink"]},
        "categories": ["food"],
        "structured_attributes": {"day": number % 28, "month": number % 12, "year": 2020, "is_weekend": False},
        "created_at": moment,
        "updated_at": moment,
    }


class Handler(BaseHTTPRequestHandler):
    """The four requests that an export sends."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    rows = users = 0

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        answer = {"/v1/stats/": {"total_memories": self.rows}, "/v1/ping/": {"status": "ok", "project_id": "bench"}}
        self._send(answer[urlsplit(self.path).path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query = {name: int(values[0]) for name, values in parse_qs(urlsplit(self.path).query).items()}
        first, last = self._range(body["filters"])
        begin = first + (query["page"] - 1) * query["page_size"]
        end = min(begin + query["page_size"], last)
        self._send(
            {
                "count": last - first,
                "next": "more" if end < last else None,
                "results": [item(number, self.users) for number in range(begin, end)],
            }
        )

    def _range(self, filters: dict[str, Any]) -> tuple[int, int]:
        """The numbers a filter admits; what was edited later than it was made does not exist here."""
        first, last = 0, self.rows
        for part in filters.get("AND", []):
            bounds = part.get("created_at") or next(
                (one["created_at"] for one in part["OR"] if "created_at" in one), {}
            )
            if "gte" in bounds:
                first = max(first, -(-_seconds(bounds["gte"]) // 1))
            if "lt" in bounds:
                last = min(last, -(-_seconds(bounds["lt"]) // 1))
        return int(first), int(max(first, last))

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _seconds(text: str) -> float:
    return (datetime.fromisoformat(text) - BEGINNING).total_seconds()


def serve(rows: int, users: int) -> str:
    """Start it in a process of its own, which ends with this one; returns its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.platform_stand_in", str(rows), str(users)], stdout=subprocess.PIPE
    )
    atexit.register(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def bare_listing(address: str) -> int:
    """Fetch every page of the listing one after another, as a simple loop of a user would."""
    import httpx

    body = {"filters": {"OR": [{"user_id": "*"}, {"agent_id": "*"}]}, "show_expired": True}
    rows, page, more = 0, 0, True
    with httpx.Client() as client:
        while more:
            page += 1
            asked = {"page": page, "page_size": PAGE}
            answer = client.post(f"{address}/v3/memories/", params=asked, json=body).json()
            rows += len(answer["results"])
            more = answer["next"] is not None
    return rows


def main() -> None:
    Handler.rows, Handler.users = int(sys.argv[1]), int(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
