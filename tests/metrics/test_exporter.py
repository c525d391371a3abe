"""Metrics are served on a port and written into a file, and prometheus-client's own parser reads them."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.metrics import exporter as exporters
from spectron_migrate.metrics.exporter import Exporter, exporting
from spectron_migrate.metrics.numbers import Numbers
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.settings import MetricsSettings, Settings, load_settings
from spectron_migrate.spectron.traffic import Traffic
from tests.support.command import command
from tests.support.spectron import memory, write_raw
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def values(text: str) -> dict[str, float]:
    """Every sample, by its name and its labels as they are written."""
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True) if sample.labels else ''}": sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def settings(folder: Path, **metrics: object) -> Settings:
    text = {"version": 1, "state": str(folder / "state"), "metrics": metrics}
    (folder / "spectron-migrate.yaml").write_text(json.dumps(text))
    return load_settings(folder / "spectron-migrate.yaml", env={}, overrides={})


def scrape(port: int, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


@pytest.fixture
def configured(spectron: RunningServer, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    variables = {
        "SPECTRON_ENDPOINT": spectron.base_url,
        "SPECTRON_CONTEXT": spectron.context,
        "SPECTRON_API_KEY": spectron.api_key,
    }
    return tmp_path, {**clean_environment(os.environ), **variables}


def test_a_replay_leaves_its_numbers_in_a_file(configured: tuple[Path, dict[str, str]], user: str) -> None:
    folder, environment = configured
    settings(folder, textfile="metrics.prom")
    write_raw(folder / "all.json", [memory(number, f"{user}{number % 3}") for number in range(30)])
    ended = command(folder, "replay", "--dump", "all.json", environment=environment)
    assert ExitCode.DONE == ended.returncode
    found = values((folder / "metrics.prom").read_text())
    assert 30 == found['spectron_migrate_facts{"state": "written"}'] + found.get(
        'spectron_migrate_facts{"state": "stored_not_extracted"}', 0
    )
    assert 0 == found['spectron_migrate_facts{"state": "refused"}']
    assert 0 == found["spectron_migrate_in_doubt"]
    assert 0 == found["spectron_migrate_requests_in_flight"]
    assert 30 == found['spectron_migrate_request_duration_seconds_count{"call": "facts", "outcome": "200"}']
    assert 1 == found['spectron_migrate_phase{"phase": "mem0"}']
    assert 0o644 == (folder / "metrics.prom").stat().st_mode & 0o777, "node_exporter is another user"


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_a_port_serves_them_in_either_format(tmp_path: Path, accept: str, parse: object) -> None:
    port = free_port()
    with exporting(settings(tmp_path, port=port), tmp_path / "state", "digest", warn=pytest.fail) as exporter:
        exporter.traffic = Traffic()
        exporter.traffic.end(exporter.traffic.begin(), "/api/v1/acme/facts", "200")
        exporter.traffic.begin()
        text, content_type = scrape(port, accept=accept)
        assert content_type.startswith(accept.partition(";")[0] or "text/plain")
        assert "spectron_migrate_requests_in_flight 1.0" in text
        assert [] != list(parse(text))  # type: ignore[operator]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            scrape(port, "/")
    with pytest.raises(OSError, match="refused"):
        scrape(port)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_port_that_is_taken_stops_before_anything_is_sent(
    configured: tuple[Path, dict[str, str]], user: str, taken: int
) -> None:
    folder, environment = configured
    settings(folder, port=taken)
    write_raw(folder / "all.json", [memory(1, user)])
    ended = command(folder, "replay", "--dump", "all.json", "--json", environment=environment)
    assert ExitCode.INPUT == ended.returncode
    error = json.loads(ended.stdout)["error"]
    assert f"metrics.port {taken} cannot be opened on 127.0.0.1" in error["message"]
    assert "metrics.textfile" in error["hint"]


def test_a_file_that_cannot_be_written_stops_before_anything_is_sent(
    configured: tuple[Path, dict[str, str]], user: str
) -> None:
    folder, environment = configured
    settings(folder, textfile="nowhere/metrics.prom")
    write_raw(folder / "all.json", [memory(1, user)])
    ended = command(folder, "replay", "--dump", "all.json", "--json", environment=environment)
    assert ExitCode.INPUT == ended.returncode
    assert "nowhere/metrics.prom cannot be written" in json.loads(ended.stdout)["error"]["message"]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InputError) as raised:
        Exporter(Numbers)
    assert "spectron-migrate[metrics]" in (raised.value.hint or "")


def test_without_the_setting_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    assert not MetricsSettings().is_on
    assert not settings(tmp_path).metrics.is_on


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"port": 0}, "`metrics.port`"),
        ({"port": 70000}, "`metrics.port`"),
        ({"prot": 9464}, "did you mean `port`?"),
        ({"port": 9464, "host": 3}, "`metrics.host` is not an address"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, metrics: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        settings(tmp_path, **metrics)
    assert message in raised.value.message


class Clock:
    """Moves while numbers are read."""

    def __init__(self, takes_s: float) -> None:
        self.now, self.takes_s, self.readings = 0.0, takes_s, 0

    def read(self) -> Numbers:
        self.now += self.takes_s
        self.readings += 1
        return Numbers()

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("takes_s", "expected"), [(0.001, 120), (0.5, 6), (3.0, 1)])
def test_a_large_ledger_is_read_rarely(monkeypatch: pytest.MonkeyPatch, takes_s: float, expected: int) -> None:
    clock = Clock(takes_s)
    monkeypatch.setattr(exporters.time, "monotonic", clock.monotonic)
    exporter = Exporter(clock.read)
    for _ in range(600):
        exporter.render()
        clock.now += 1.0
    assert clock.readings == pytest.approx(expected, abs=2)
    assert clock.readings * takes_s < 0.01 * clock.now


def test_a_file_that_cannot_be_written_any_more_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "EVERY_S", 0.01)
    warned: list[str] = []
    (tmp_path / "there").mkdir()
    given = replace(settings(tmp_path), metrics=MetricsSettings(textfile=tmp_path / "there/metrics.prom"))
    with exporting(given, tmp_path / "state", "digest", warn=warned.append):
        (tmp_path / "there").rename(tmp_path / "gone")
        wait_until(lambda: bool(warned))
    assert 1 == len(warned)
