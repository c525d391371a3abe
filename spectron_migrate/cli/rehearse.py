"""`spectron-migrate rehearse`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectron_migrate.cli import dual_verify, export, replay
from spectron_migrate.cli.options import GlobalOptions, MappingOption, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_command
from spectron_migrate.cli.tables import Wrapped, show
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.files.atomic import naming
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Filters, Json, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.settings import Settings

RECALL_GATES = frozenset({"recall", "overlap", "asked", "lost", "moved on", "answered"})
"""Gates that are shown but do not decide a rehearsal: the local Spectron ranks differently from the hosted one."""


@with_global_options
def command(
    options: GlobalOptions,
    mem0_config: Annotated[
        str | None,
        typer.Option(
            "--mem0-config", help="Rehearse with your own Mem0 (`default`: what Memory() opens).", metavar="FILE"
        ),
    ] = None,
    dump: Annotated[
        list[Path] | None, typer.Option("--dump", help="Rehearse with a dump or raw Mem0 files.", metavar="PATH")
    ] = None,
    mapping: MappingOption = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Keep everything in this directory, which must be new or empty.", metavar="DIR"),
    ] = None,
) -> int:
    """Run the whole migration against a local Spectron.

    Without an option it makes a small, real Mem0 store to migrate, and needs no key, no server and no network. With
    --mem0-config it reads your Mem0, changes nothing there, and sends texts only to that Mem0's own embedder (and
    reranker). It reads no settings file and no SPECTRON_* variable, and writes only to a local Spectron of its own.
    The exit code depends on integrity, order and isolation; recall is shown and does not count.

    \b
    Example: spectron-migrate rehearse
             spectron-migrate rehearse --mem0-config mem0.yaml --keep rehearsal
    """
    # Without --config and --state, so that a rehearsal never touches the ledger of a real migration.
    own_options = replace(options, config=None, state=None)
    return run_command(
        "rehearse", own_options, lambda invocation: run(invocation, mem0_config, dump or [], mapping, keep)
    )


def run(
    invocation: Invocation, mem0_config: str | None, dumps: list[Path], mapping: Path | None, keep: Path | None
) -> CommandResult:
    """Rehearse in a directory that is kept or removed; raises InputError if `keep` is not empty."""
    if mem0_config is not None and dumps:
        raise InputError("--mem0-config and --dump name two sources", hint="rehearse with one of them")
    with _open_folder(keep) as folder:
        return _Rehearsal(invocation, folder, kept=keep is not None).run(mem0_config, dumps, mapping)


@contextmanager
def _open_folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with Scratch() as folder:
            yield folder
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise InputError(f"{keep} is not an empty directory", hint="name a new one: nothing is overwritten")
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    with naming(keep):
        (keep / ".gitignore").write_text("*\n")
    yield keep.resolve()


@dataclass
class _Rehearsal:
    """One rehearsal in its folder: runs the commands' own `run`, and prints each command line before its summary."""

    invocation: Invocation
    folder: Path
    kept: bool

    def run(self, mem0_config: str | None, dumps: list[Path], mapping: Path | None) -> CommandResult:
        from spectron_migrate.migration.replay_options import ReplayOptions
        from spectron_migrate.rehearsal.subprocesses import local_spectron, make_store_in_subprocess

        next_ = _next(mem0_config, dumps)
        self.invocation.carry("--mapping", mapping)
        queries = None
        if not dumps and mem0_config is None:
            self.invocation.reporter.info("making a small, real Mem0 store")
            store = make_store_in_subprocess(self.folder / "mem0", self.invocation.environment)
            mem0_config, queries = str(store), store.parent / "queries.jsonl"
        results: dict[str, CommandResult] = {}
        with local_spectron(self.folder / "spectron", self.invocation.environment) as server:
            self.invocation = replace(self.invocation, environment=server.environment)
            settings = self._write_settings(mem0_config, mapping)
            shown = ["--mapping", str(mapping)] if mapping else []
            if mem0_config is None:
                shown = [*_dump_options(dumps), *shown]
            else:
                self._print_command(["export", "--mem0-config", mem0_config])
                results["export"] = self._print(export.run(self.invocation, settings, Filters()))
                dumps = [settings.dump]
            for name in ("replay", "replay again"):
                self._print_command(["replay", *shown])
                result = replay.run(self.invocation, settings, dumps, ReplayOptions(), dry_run=False)
                results[name] = self._print(result)
            self._print_command(["dual-verify", *shown])
            request = dual_verify.VerifyRequest(dumps=dumps, queries=queries)
            results["dual-verify"] = self._print(dual_verify.run(self.invocation, settings, request))
        return self._result(results, next_)

    def _write_settings(self, mem0_config: str | None, mapping: Path | None) -> Settings:
        """Write a settings file into the folder, so that no other is read, and a kept folder can go on being used."""
        file = self.folder / "spectron-migrate.yaml"
        content: dict[str, Json] = {"version": 1, "dump": "dump", "state": ".spectron-migrate"}
        if mem0_config is not None:
            config = mem0_config if mem0_config == "default" else str(Path(mem0_config).resolve())
            content["mem0"] = {"oss": {"config": config}}
        if mapping is not None:
            content["mapping"] = str(mapping.resolve())
        with naming(file):
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")  # JSON is YAML too
        self.invocation = replace(self.invocation, options=replace(self.invocation.options, config=file))
        return self.invocation.settings()

    def _print_command(self, words: list[str]) -> None:
        if self.invocation.shows_tables:
            self.invocation.console.print(f"\n$ spectron-migrate {shlex.join(words)}", style="bold cyan")

    def _print(self, result: CommandResult) -> CommandResult:
        self.invocation.reporter.close()
        if self.invocation.shows_tables:
            for part in result.tables:
                show(self.invocation.console, part)
        return result

    def _result(self, results: dict[str, CommandResult], next_: str) -> CommandResult:
        code = _exit_code(results)
        body: dict[str, Json] = {
            "steps": {name: {"exit_code": int(each.exit_code), **each.body} for name, each in results.items()},
            "kept": str(self.folder) if self.kept else None,
        }
        kept = self.folder if self.kept else None
        tables = draw(code, results["dual-verify"].body, kept)
        return CommandResult(code, body, tables, migration=results["replay"].migration, next=next_)


def _next(mem0_config: str | None, dumps: list[Path]) -> str:
    if mem0_config is not None:
        return shlex.join(["spectron-migrate", "init", "--mem0-config", mem0_config])
    if dumps:
        return shlex.join(["spectron-migrate", "replay", *_dump_options(dumps), "--dry-run"])
    return "spectron-migrate init"


def _dump_options(dumps: list[Path]) -> list[str]:
    return [word for path in dumps for word in ("--dump", str(path))]


def _exit_code(results: dict[str, CommandResult]) -> ExitCode:
    """The exit code of the first step that failed. In verification, only gates that do not measure recall count."""
    from spectron_migrate.verify.verdict import EXIT_CODES, verdict_of

    for name, result in results.items():
        if name != "dual-verify" and result.exit_code != ExitCode.DONE:
            return result.exit_code
    if results["replay again"].body["written"]:
        return ExitCode.NO_GO
    gates = results["dual-verify"].body["gates"]
    return EXIT_CODES[verdict_of(gate for gate in gates if not _is_left_open(gate))]


def _is_left_open(gate: Mapping[str, Json]) -> bool:
    """What a rehearsal cannot measure: recall, and whether raw files hold all of Mem0."""
    return gate["name"] in RECALL_GATES or (gate["name"] == "source" and not gate["measured"])


def _is_open(gate: Mapping[str, Json]) -> bool:
    return bool(gate["decides"] and not gate["accepted"] and gate["passed"] is not True)


def draw(code: ExitCode, verified: dict[str, Json], kept: Path | None) -> Iterator[RenderableType]:
    """Whether the rehearsal passed."""
    yield ""
    if code == ExitCode.DONE:
        integrity = verified["integrity"]
        arrived = f"{integrity['present']:,} of {counted(integrity['expected'], 'memory')} arrived"
        tested = all(gate["measured"] for gate in verified["gates"] if gate["name"] == "isolation")
        seen = "no user sees another's" if tested else "whether users see each other's was not tested"
        verdict = f"{arrived}, word for word, in the right scope and current; {seen}"
        yield Wrapped(f"Rehearsal passed: {verdict}", style="bold green")
        if verified["verdict"] != "GO":
            open_ = [f"{gate['name']}, {gate['hint']}" for gate in verified["gates"] if _is_open(gate)]
            because = f"because of what a rehearsal does not decide: {'; '.join(open_)}"
            yield Wrapped(f"(the verdict is {verified['verdict']} {because})")
    else:
        yield Wrapped(f"Rehearsal failed: {code.meaning}", style="bold red")
    if kept is not None:
        yield f"kept: {kept}"
