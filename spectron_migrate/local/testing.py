"""A local Spectron in a process of its own, for tests of anything that speaks to Spectron.

    import pytest
    from spectron_migrate.local.testing import running_server

    @pytest.fixture(scope="session")
    def spectron():
        with running_server() as server:
            yield server

    def test_it_answers(spectron):
        client = MyClient(spectron.base_url, context=spectron.context, api_key=spectron.api_key)

Each server takes a free port, so that tests can run side by side.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spectron_migrate.local.engine import NEWEST

START_SECONDS = 60.0
"""A start that takes longer has failed; it is generous, because a loaded machine is slow."""


class ServerFailed(Exception):
    """The server did not start; the message is what it printed."""


class RunningServer:
    """A server process that can be killed and started again on the same port and data."""

    def __init__(
        self,
        data: Path | None = None,
        *,
        context: str = "local",
        api_key: str = "sk-local",
        extraction: bool = True,
        api: str = NEWEST,
        port: int = 0,
        **more: Any,
    ) -> None:
        """Options are those of `server.create_app`; `start` starts the process.

        `reading` is a dict of the fields of `engine.ContractReading`. `fault_settings` is a dict of the fields of
        `faults.FaultSettings`; only with it, even if empty, does the server inject faults, and `change_faults`
        changes them.
        """
        self.data = data
        self.context = context
        self.api_key = api_key
        self.base_url = ""
        self.process: subprocess.Popen[str]
        self._port = port
        self._more = more
        self._options = ["--context", context, "--api", api, *([] if extraction else ["--no-extraction"])]
        if data is not None:
            self._options += ["--data", str(data)]

    @property
    def database(self) -> Path:
        """The store's file, to be opened read-only. Raises ValueError without `data`."""
        if self.data is None:
            raise ValueError("a server without data keeps everything in memory")
        return self.data / f"{self.context}.sqlite"

    def start(self) -> None:
        """Start the process and wait until it is healthy. Raises ServerFailed."""
        with tempfile.TemporaryFile("w+") as stderr:
            # The module is run from wherever this package is, not from the caller's directory.
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    *(sys.executable, "-m", "spectron_migrate.local", "--port", str(self._port)),
                    *(*self._options, "--more"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "SPECTRON_API_KEY": self.api_key},
            )
            assert self.process.stdin is not None  # noqa: S101 - it is a pipe
            assert self.process.stdout is not None  # noqa: S101 - it is a pipe
            self.process.stdin.write(json.dumps(self._more) + "\n")
            self.process.stdin.flush()  # and left open: when this process is gone, the server sees its end, and ends
            ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
            self.base_url = self.process.stdout.readline().strip() if ready else ""
            if not self.base_url:
                self.stop()
                stderr.seek(0)
                raise ServerFailed(stderr.read().strip() or f"no answer in {START_SECONDS:.0f} s")
        self._port = urlsplit(self.base_url).port or 0
        self._await_health()

    def kill(self) -> None:
        """Kill the process as `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Start again on the same port and data; kills the process first if it is running."""
        if self.process.poll() is None:
            self.kill()
        self.start()

    def change_faults(self, **settings: Any) -> dict[str, int]:
        """Use other fault settings from now on, across restarts too; returns how often each fault has occurred.

        Raises ValueError for an unknown fault or reading.
        """
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
        try:
            connection.request("PUT", "/faults", json.dumps(settings))
            answer = connection.getresponse()
            body = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(body["message"])
        self._more["fault_settings"] = settings
        return dict(body["counts"])

    def stop(self) -> None:
        """End the process cleanly."""
        if self.process.poll() is None:
            self.process.terminate()
        self._reap()

    def _reap(self) -> None:
        try:
            self.process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _await_health(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        address = urlsplit(self.base_url)
        while True:
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
            try:
                connection.request("GET", "/api/v1/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            finally:
                connection.close()


@contextmanager
def running_server(data: Path | None = None, **options: Any) -> Iterator[RunningServer]:
    """A server for the duration of the block.

    Args:
        data: directory that keeps the memories across restarts; None keeps them in memory.
        options: those of `RunningServer`.

    Yields:
        The running server.

    Raises:
        ServerFailed: it did not start.
    """
    server = RunningServer(data, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
