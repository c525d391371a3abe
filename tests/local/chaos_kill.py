"""Kill the local Spectron with -9 under load, many times, and count acknowledged writes that are lost or doubled.

    python tests/local/chaos_kill.py [--rounds 50] [--writers 4]

Each round writers send facts with keys of their own until the server is killed at a random moment; then it is
started again on the same data, every write that was under way is sent again with the same bytes, and the
tables must hold each acknowledged text exactly once.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.local.testing import RunningServer, running_server

SCOPE = "user/chaos"


@dataclass
class Load:
    """Requests that the writers sent, and their answers."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    """Key -> answer."""
    sent: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Key -> path and body."""


class Writer(threading.Thread):
    """Sends facts and small batches until the connection breaks."""

    def __init__(self, server: RunningServer, load: Load, session: str, numbers: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.server, self.load, self.session, self.numbers = server, load, session, numbers

    def run(self) -> None:
        """Send until the server is gone."""
        connection = connect(self.server)
        try:
            while True:
                number = self.numbers()
                path, body = request_for(number, self.session)
                key = f"key-{number}"
                self.load.sent[key] = (path, body)
                status, answer = post(connection, self.server, path, body, key)
                if status == 200:
                    self.load.acknowledged[key] = answer
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


def texts_of(number: int) -> list[str]:
    """The texts of write number n: one, or five in a batch."""
    return [f"User likes thing {number}"] if number % 5 else [f"Part {part} of message {number}" for part in range(5)]


def request_for(number: int, session: str) -> tuple[str, bytes]:
    """Path and body."""
    texts = texts_of(number)
    if len(texts) == 1:
        return "/facts", json.dumps({"text": texts[0], "session_id": session, "infer": "full"}).encode()
    messages = [{"role": "user", "content": text} for text in texts]
    return "/facts/batch", json.dumps({"messages": messages, "session_id": session, "infer": "none"}).encode()


def connect(server: RunningServer) -> http.client.HTTPConnection:
    """A connection that is kept alive."""
    address = urlsplit(server.base_url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)


def post(
    connection: http.client.HTTPConnection, server: RunningServer, path: str, body: bytes, key: str = ""
) -> tuple[int, bytes]:
    """Send one request and read the whole answer."""
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    connection.request(
        "POST", f"/api/v1/{server.context}{path}", body, headers | ({"Idempotency-Key": key} if key else {})
    )
    response = connection.getresponse()
    return response.status, response.read()


def open_session(server: RunningServer) -> str:
    """Create a session in the scope that all writers use."""
    connection = connect(server)
    post(connection, server, "/scopes", json.dumps({"path": SCOPE}).encode())
    _, answer = post(connection, server, "/sessions", json.dumps({"scopes": [[SCOPE]]}).encode())
    connection.close()
    return str(json.loads(answer)["id"])


def stored(server: RunningServer) -> Counter[str]:
    """All texts of turns, and all passages."""
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as db:
        turns = Counter(row[0] for row in db.execute("SELECT content FROM turns"))
        passages = Counter(row[0] for row in db.execute("SELECT text FROM passages"))
        (found,) = db.execute("SELECT count(*) FROM item_text WHERE item_text MATCH 'thing OR message'").fetchone()
        (items,) = db.execute("SELECT count(*) FROM item").fetchone()
    db.close()
    assert turns == passages, "a turn without its passage"
    assert found == items, "the words' index and the items differ"
    return turns


def one_round(server: RunningServer, load: Load, numbers: Callable[[], int], writers: int, seconds: float) -> None:
    """One round: load, kill, restart, send again, compare."""
    session = open_session(server)
    threads = [Writer(server, load, session, numbers) for _ in range(writers)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    server.kill()
    for thread in threads:
        thread.join()
    before = stored_after_kill(server)
    for key, answer in load.acknowledged.items():
        for text in texts_of(int(key.removeprefix("key-"))):
            assert before[text] == 1, f"acknowledged and stored {before[text]} times: {text} ({answer[:80]!r})"
    doubtful = {key: sent for key, sent in load.sent.items() if key not in load.acknowledged}
    connection = connect(server)
    for key, (path, body) in doubtful.items():
        status, answer = post(connection, server, path, body, key)
        assert status == 200, (status, answer)
        load.acknowledged[key] = answer
    connection.close()
    expected = Counter(text for key in load.sent for text in texts_of(int(key.removeprefix("key-"))))
    assert expected == stored(server), "sent again with the same bytes, and not there exactly once"


def stored_after_kill(server: RunningServer) -> Counter[str]:
    """Restart and read the tables."""
    server.restart()
    return stored(server)


def run(rounds: int, writers: int, seed: int, report: Callable[[str], None]) -> Load:
    """All rounds on one data directory. Raises AssertionError at the first loss."""
    load, chance = Load(), random.Random(seed)
    counter = itertools.count(1)
    lock = threading.Lock()

    def numbers() -> int:
        with lock:
            return next(counter)

    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        for number in range(1, rounds + 1):
            one_round(server, load, numbers, writers, chance.uniform(0.02, 0.4))
            report(f"round {number}: {len(load.acknowledged)} acknowledged, none lost, none twice")
    return load


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(options.rounds, options.writers, options.seed, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
