"""What a hostile reviewer tried on clocks: a routing that nobody renews runs out whatever they show."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.records import format_time
from spectron_migrate.state.routing import Routing, RoutingReader, write_routing


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0])
def test_a_clock_that_was_put_back_does_not_keep_reads_with_a_spectron_that_nobody_brings_up_to_date(
    tmp_path: Path, ahead_s: float
) -> None:
    as_of = time.time() + ahead_s
    routing = Routing(
        migration="m",
        phase="shift",
        percent=100,
        epoch=2,
        as_of=format_time(datetime.fromtimestamp(as_of, UTC)),
        fresh_until=as_of + 60,
        behind=frozenset(),
    )
    write_routing(tmp_path / "routing.json", routing)
    moment = [0.0]
    reader = RoutingReader(tmp_path, clock=lambda: moment[0])
    assert "spectron" == reader.current().route(user_id="alice")
    moment[0] = 61.0
    assert "behind" == reader.current().route(user_id="alice")
    write_routing(tmp_path / "routing.json", routing)  # somebody follows again
    moment[0] = 62.0
    assert "spectron" == reader.current().route(user_id="alice")
