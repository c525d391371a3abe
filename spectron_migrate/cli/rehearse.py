"""`spectron-migrate rehearse`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import dual_verify, export, options, replay
from spectron_migrate.cli.conduct import Common, Outcome, Stage, conduct
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Filters, Json, counted

if TYPE_CHECKING:
    from rich.console import Console

    from spectron_migrate.migration.replay import ReplayOptions
    from spectron_migrate.settings import Settings

RECALL_GATES = frozenset({"recall", "overlap", "asked", "lost", "moved on", "answered"})
"""Shown, but they do not decide a rehearsal: the local Spectron ranks differently from the hosted one."""


def command(
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config", help="Rehearse with your own Mem0 (`default` = what Memory() opens).", metavar="FILE"
        ),
    ] = None,
    dump: Annotated[
        list[Path] | None, typer.Option("--dump", help="Rehearse with a dump or raw Mem0 files.", metavar="PATH")
    ] = None,
    mapping: options.MappingOption = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Keep everything in this directory.", metavar="DIR")
    ] = None,
    config: options.ConfigOption = None,
    state: options.StateOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Play the whole migration against a local Spectron: needs no key, no server, no network.

    With no option it makes a small, real Mem0 store to migrate. It looks at no settings file and at no
    SPECTRON_* variable, and writes to nothing but a local Spectron of its own. The exit code comes from
    integrity, order and isolation; recall is shown and does not decide.

    \b
    Example: spectron-migrate rehearse
             spectron-migrate rehearse --mem0-config mem0.yaml --keep rehearsal
    """

    def work(stage: Stage) -> Outcome:
        if mem0_config is not None and dump:
            raise InputError("--mem0-config and --dump name two sources", hint="rehearse with one of them")
        with _folder(keep) as folder:
            return _Rehearsal(stage, folder, kept=keep is not None).play(mem0_config, dump or [], mapping)

    # Only this command's own folder is its state: a ledger of a real migration is not touched.
    return conduct("rehearse", Common(None, None, as_json, quiet, verbose), work)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with Scratch() as folder:
            yield folder
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise InputError(f"{keep} is not an empty directory", hint="name a new one: nothing is overwritten")
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    (keep / ".gitignore").write_text("*\n")
    yield keep.resolve()


@dataclass
class _Rehearsal:
    stage: Stage
    folder: Path
    kept: bool
    _next: str = "spectron-migrate rehearse --mem0-config mem0.yaml"

    def play(self, mem0_config: str | None, dumps: list[Path], mapping: Path | None) -> Outcome:
        """Make a store where none is given, then run the very steps that the commands run."""
        from spectron_migrate.rehearsal.ground import local_spectron, make_store

        steps: dict[str, Outcome] = {}
        queries = None
        if mem0_config is not None:
            self._next = shlex.join(["spectron-migrate", "init", "--mem0-config", mem0_config])
        elif dumps:
            self._next = shlex.join(["spectron-migrate", "replay", *_as_options(dumps), "--dry-run"])
        if not dumps and mem0_config is None:
            self.stage.line("making a small, real Mem0 store")
            made = make_store(self.folder / "mem0", self.stage.environment)
            mem0_config, queries = str(made), made.parent / "queries.jsonl"
        with local_spectron(self.folder / "spectron", self.stage.environment) as server:
            self.stage = replace(self.stage, environment=server.environment)
            settings = self._settings(mem0_config, mapping)
            shown_mapping = ["--mapping", str(mapping)] if mapping else []
            if mem0_config is not None:
                self._say(["export", "--mem0-config", mem0_config])
                steps["export"] = self._show(export.perform(self.stage, settings, Filters()))
                dumps = [settings.dump]
            shown_dumps = _as_options(dumps) if mem0_config is None else []
            self._say(["replay", *shown_dumps, *shown_mapping])
            chosen = _replay_options()
            steps["replay"] = self._show(replay.perform(self.stage, settings, dumps, chosen, dry_run=False))
            self._say(["replay", *shown_dumps, *shown_mapping])
            steps["replay again"] = self._show(replay.perform(self.stage, settings, dumps, chosen, dry_run=False))
            self._say(["dual-verify", *shown_dumps, *shown_mapping])
            asked = dual_verify.Asked(dumps=dumps, queries=queries)
            steps["dual-verify"] = self._show(dual_verify.perform(self.stage, settings, asked))
        return self._outcome(steps)

    def _settings(self, mem0_config: str | None, mapping: Path | None) -> Settings:
        """Settings of a file of our own, so that no other is read; a person who keeps the folder goes on with it."""
        file = self.folder / "spectron-migrate.yaml"
        told: dict[str, Json] = {"version": 1, "dump": "dump", "state": ".spectron-migrate"}
        if mem0_config is not None:
            told["mem0"] = {
                "oss": {"config": mem0_config if mem0_config == "default" else str(Path(mem0_config).resolve())}
            }
        if mapping is not None:
            told["mapping"] = str(mapping.resolve())
        file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")  # JSON is YAML too
        self.stage = replace(self.stage, common=replace(self.stage.common, config=file))
        return self.stage.settings()

    def _say(self, words: list[str]) -> None:
        if not self.stage.common.as_json and not self.stage.common.quiet:
            self.stage.console.print(f"\n$ spectron-migrate {shlex.join(words)}", style="bold cyan")

    def _show(self, outcome: Outcome) -> Outcome:
        self.stage.reporter.close()
        if not self.stage.common.as_json and not self.stage.common.quiet:
            outcome.draw(self.stage.console)
        return outcome

    def _outcome(self, steps: dict[str, Outcome]) -> Outcome:
        code = _judge(steps)
        body: dict[str, Json] = {
            "steps": {name: {"exit_code": int(step.exit_code), **step.body} for name, step in steps.items()},
            "kept": str(self.folder) if self.kept else None,
        }
        return Outcome(
            code,
            body,
            lambda console: self._closing(console, code, steps),
            migration=steps["replay"].migration,
            next=self._next,
        )

    def _closing(self, console: Console, code: ExitCode, steps: dict[str, Outcome]) -> None:
        from spectron_migrate.cli.draw import Wrapped

        verified = steps["dual-verify"].body
        console.print()
        if code == ExitCode.DONE:
            integrity = verified["integrity"]
            arrived = f"{integrity['present']:,} of {counted(integrity['expected'], 'memory')} arrived"
            told = f"{arrived}, each word for word, placed and current; nobody sees another's"
            console.print(Wrapped(f"Rehearsal passed: {told}", style="bold green"))
            if verified["verdict"] != "GO":
                console.print(Wrapped("(what is not GO is recall alone, which a local Spectron cannot decide)"))
        else:
            console.print(Wrapped(f"Rehearsal failed: {code.meaning}", style="bold red"))
        if self.kept:
            console.print(f"kept: {self.folder}")


def _as_options(dumps: list[Path]) -> list[str]:
    return [word for path in dumps for word in ("--dump", str(path))]


def _judge(steps: dict[str, Outcome]) -> ExitCode:
    """The first step that failed; of verification all gates but those of recall."""
    from spectron_migrate.verify.verdict import EXIT_CODES, verdict_of

    for name, step in steps.items():
        if name != "dual-verify" and step.exit_code != ExitCode.DONE:
            return step.exit_code
    if steps["replay again"].body["written"]:
        return ExitCode.NO_GO
    gates = [gate for gate in steps["dual-verify"].body["gates"] if gate["name"] not in RECALL_GATES]
    return EXIT_CODES[verdict_of(gates)]


def _replay_options() -> ReplayOptions:
    from spectron_migrate.migration.replay import ReplayOptions

    return ReplayOptions()
