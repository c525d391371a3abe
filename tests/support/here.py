"""A local Spectron in this process, over real HTTP: for a test that needs one of its own and kills nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate.local.engine import ContractReading, wall_clock
from spectron_migrate.local.faults import Faults, FaultSettings
from spectron_migrate.local.testing import RunningServer
from tests.local.support import spectron
from tests.support.proxy import serving


class ServerHere(RunningServer):
    """What `RunningServer` is, without the start of a process; `kill` is an orderly end too."""

    def __init__(self, data: Path | None = None, **options: Any) -> None:
        """Take the options of `RunningServer`."""
        super().__init__(data, **options)
        self._given = {"data": data, "context": self.context, "api_key": self.api_key, **options}
        self._open = ExitStack()

    def start(self) -> None:
        """Start; the port is another each time."""
        given = dict(self._given)
        if "reading" in given:
            given["reading"] = ContractReading(**given["reading"])
        if "fault_settings" in given:
            given["faults"] = Faults(FaultSettings(**given.pop("fault_settings")))
        local = self._open.enter_context(spectron(wall_clock, **given))
        self.base_url = self._open.enter_context(serving(local.app))

    def stop(self) -> None:
        """End it in order."""
        self._open.close()

    def kill(self) -> None:
        """End it; whoever needs a server that dies takes one in a process of its own."""
        self.stop()

    def restart(self) -> None:
        """Start again on the same data."""
        self.stop()
        self.start()


@contextmanager
def server_here(data: Path | None = None, **options: Any) -> Iterator[RunningServer]:
    """A server that ends with the block; takes the options of `running_server`."""
    server = ServerHere(data, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
