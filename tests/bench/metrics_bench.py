"""What a replay pays for being watched: the processor time of the exporter's threads, and of progress, as a share.

    python -m tests.bench.metrics_bench [--rows 40000] [--every 5]

The replay runs in a process of its own against a server that answers at once, and its metrics are fetched every five
seconds, which is three times as often as Prometheus usually does. Progress is counted in this process as in a replay:
once a memory, with lines, events in `log.jsonl` and the file for `status --watch`.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from spectron_migrate.cli.log import EventLog
from spectron_migrate.cli.terminal import TerminalReporter
from spectron_migrate.reporter import Gauges
from spectron_migrate.state.running import ProgressFile
from tests.bench.replay_bench import make_dump, serving

LIMIT = 0.01
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What was seen at the last time that the metrics were fetched."""

    exporter_s: float
    process_s: float
    written: float
    scrapes: int

    @property
    def share(self) -> float:
        return self.exporter_s / self.process_s


def main(words: Sequence[str]) -> int:
    """Measure and print; fail above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--every", type=float, default=5.0)
    given = parser.parse_args(words)
    cost = measure(given.rows, given.every)
    print(
        f"exporter {cost.exporter_s:.3f} s of {cost.process_s:.1f} s processor time: {cost.share:.2%},"
        f" fetched {cost.scrapes} times, {cost.written:,.0f} of {given.rows:,} memories written by then"
    )
    counting = progress_s(memories=200_000) / 200_000
    memory = cost.process_s / max(1.0, cost.written)
    print(f"progress {1e6 * counting:.2f} us of {1e6 * memory:.0f} us processor time a memory: {counting / memory:.2%}")
    return 0 if cost.share < LIMIT and counting / memory < LIMIT else 1


def progress_s(memories: int) -> float:
    """Processor time of counting so many memories, of which a thousand are done in a second."""
    with tempfile.TemporaryDirectory(prefix="progress-bench-") as home, redirect_stderr(io.StringIO()):
        log = EventLog(Path(home), now=lambda: datetime.now(UTC))
        file, clock = ProgressFile("replay"), Clock()
        reporter = TerminalReporter(
            progress="lines",
            log=log,
            publish=lambda shown: file.write(Path(home), shown.to_json()) if shown else file.remove(),
            clock=clock,
        )
        began = time.process_time()
        reporter.stage("replay", memories, gauges=lambda: Gauges(64, 0, ""))
        for _ in range(memories):
            reporter.advance()
            clock.now += 0.001
        reporter.close()
        return time.process_time() - began


@dataclass
class Clock:
    """Moves only where it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def measure(rows: int, every_s: float, port: int = 9464) -> Cost:
    """One replay, watched."""
    with tempfile.TemporaryDirectory(prefix="metrics-bench-") as home, serving(latency=0.002) as server:
        folder = Path(home)
        make_dump(folder, [50] * (rows // 50))
        (folder / "spectron-migrate.yaml").write_text(f"version: 1\nmetrics: {{port: {port}}}\n")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SPECTRON", "AGENT_MEMORY"))},
            "SPECTRON_ENDPOINT": server.url,
            "SPECTRON_CONTEXT": "bench",
            "SPECTRON_API_KEY": "sk-bench",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        with subprocess.Popen(
            [sys.executable, "-m", "spectron_migrate", "replay", "-q"], cwd=folder, env=environment
        ) as process:
            return watch(process, f"http://127.0.0.1:{port}/metrics", every_s)


def watch(process: subprocess.Popen[bytes], url: str, every_s: float) -> Cost:
    """Fetch the metrics until the process ends."""
    cost, scrapes = Cost(0.0, 1.0, 0.0, 0), 0
    while process.poll() is None:
        with suppress(OSError):
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
            scrapes += 1
            cost = Cost(
                value(text, "spectron_migrate_exporter_cpu_seconds_total"),
                processor_s(process.pid),
                value(text, "spectron_migrate_facts", state="written")
                + value(text, "spectron_migrate_facts", state="stored_not_extracted"),
                scrapes,
            )
        time.sleep(every_s)
    assert process.returncode == 0
    return cost


def processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def value(text: str, name: str, **labels: str) -> float:
    """One sample of the metrics; 0 where it is not there."""
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in found if sample.name == name and sample.labels == labels), 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
