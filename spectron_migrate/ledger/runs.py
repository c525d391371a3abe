"""The last runs of `replay`, and why one was refused; kept for `status`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spectron_migrate.errors import NotLegal, WrongLedger
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import canonical_json

RUN = "run"
"""The kind of the step in the ledger."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """One run; `ended` is None while it runs, and remains so if it is killed."""

    began: str
    process: int
    plan: int
    stored_before: int
    """How many memories of its plan were in Spectron when it began."""
    ended: str | None = None
    written: int = 0
    requests: int = 0
    retries: int = 0
    stopped: str | None = None
    """Why it ended early; None if it did not."""
    in_flight: float | None = None
    """How many requests in flight the server allowed at the end of the run. The next run begins with as many."""
    called_with: Sequence[Sequence[str]] = ()
    """Options that the next command needs as well, with their values."""
    folder: str = ""
    """The working directory, to which paths among the options are relative."""
    host: str = ""
    """Empty if an earlier version ran."""


@contextmanager
def record_run(
    ledger: Ledger,
    *,
    plan: int,
    stored: int,
    now: Callable[[], str],
    add_outcome: Callable[[LastRun], LastRun],
    called_with: Sequence[Sequence[str]] = (),
) -> Iterator[None]:
    """Record the run of the block; `add_outcome` completes the record at its end."""
    run = LastRun(
        now(),
        os.getpid(),
        plan,
        stored,
        in_flight=known_in_flight(ledger),
        called_with=called_with,
        folder=os.getcwd(),
        host=socket.gethostname(),
    )
    if ledger.workers is None:
        forget_runs(ledger)
    with ledger.transaction(durable=False):  # the run's first durable commit makes it durable
        number = ledger.db.execute(
            f"INSERT INTO step(kind, subject, detail, who, at) VALUES ('{RUN}', 'last', ?, 'replay', ?) RETURNING id",
            (canonical_json(asdict(run)), run.began),
        ).fetchone()[0]
    try:
        with note_refusal(ledger, now=now):
            yield
    finally:
        ended = replace(add_outcome(run), ended=now())
        with ledger.transaction():
            ledger.db.execute("UPDATE step SET detail = ? WHERE id = ?", (canonical_json(asdict(ended)), number))


def forget_runs(ledger: Ledger) -> None:
    """Forget the runs so far, because a new one begins, which several processes may share."""
    with ledger.transaction():
        ledger.db.execute(f"DELETE FROM step WHERE kind = '{RUN}'")


@dataclass(frozen=True, slots=True)
class RefusedRun:
    """A run that was refused, as the same command would be again."""

    kind: str
    """The kind of the error."""
    message: str
    hint: str


@contextmanager
def note_refusal(ledger: Ledger, *, now: Callable[[], str]) -> Iterator[None]:
    """Record why the block is refused, as not legal or for a wrong ledger; forget it once the block passes."""
    try:
        yield
    except (WrongLedger, NotLegal) as error:
        refused = RefusedRun(error.kind, error.message, error.hint or "")
        with ledger.transaction():
            ledger.db.execute("DELETE FROM step WHERE kind = 'refused run'")
            ledger.db.execute(
                "INSERT INTO step(kind, subject, detail, who, at) VALUES ('refused run', 'last', ?, 'replay', ?)",
                (canonical_json(asdict(refused)), now()),
            )
        raise
    if last_refusal(ledger) is not None:
        with ledger.transaction():
            ledger.db.execute("DELETE FROM step WHERE kind = 'refused run'")


def last_refusal(ledger: Ledger) -> RefusedRun | None:
    """Why the newest run was refused; None if it was not."""
    row = ledger.db.execute("SELECT detail FROM step WHERE kind = 'refused run'").fetchone()
    return RefusedRun(**json.loads(row["detail"])) if row else None


def last_runs(ledger: Ledger) -> list[LastRun]:
    """The newest run, and those of processes that delivered together with it; newest first."""
    rows = ledger.db.execute(f"SELECT detail FROM step WHERE kind = '{RUN}' ORDER BY id DESC")
    return [LastRun(**json.loads(row["detail"])) for row in rows]


def last_run(ledger: Ledger) -> LastRun | None:
    """The newest run; None if there was none yet."""
    return next(iter(last_runs(ledger)), None)


def runs_at_work(ledger: Ledger, runs: Sequence[LastRun]) -> list[LastRun]:
    """The runs whose process is alive.

    In Postgres, their processes hold the writers' lock. Otherwise they are on this host, and looked up by pid.
    """
    going_on = [run for run in runs if run.ended is None]
    if not going_on or isinstance(ledger.path, Path):
        return [run for run in going_on if run.host in ("", socket.gethostname()) and _is_alive(run.process)]
    from spectron_migrate.ledger import shared  # a ledger in a file needs nothing of Postgres

    writers = shared.holders_of(ledger.db, shared.WRITER)
    return [run for run in going_on if (run.host, run.process) in writers]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def known_in_flight(ledger: Ledger) -> float | None:
    """How many requests in flight the server allowed at the end of the newest run; None if no run knows."""
    last = last_run(ledger)
    return last.in_flight if last else None
