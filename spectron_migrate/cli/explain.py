"""`spectron-migrate explain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectron_migrate.cli.migration_state import STATES, carry_last_replay
from spectron_migrate.cli.opening import open_api, open_dump
from spectron_migrate.cli.options import DumpOption, GlobalOptions, MappingOption, with_global_options
from spectron_migrate.cli.runner import CommandResult, Invocation, run_async, run_command
from spectron_migrate.cli.tables import facts, listing, number, plain
from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.explain import Sources
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.records import Json, Memory
    from spectron_migrate.settings import Settings

MOST_SHOWN = 30
"""The most memories of a user that are listed."""
TEXT = 56
"""The most characters of a text in a list."""


@with_global_options
def command(
    options: GlobalOptions,
    mem0_id: Annotated[str, typer.Argument(help="A memory's id in Mem0, or a user's.", metavar="ID")],
    dump: DumpOption = None,
    mapping: MappingOption = None,
) -> int:
    """Show what became of a memory, or of a user's memories, with the evidence on both sides.

    It reads the dump, the mapping and the ledger, and asks Spectron (where the settings name it) and Mem0 (where it
    can be searched). It changes nothing. The page holds texts of memories.

    Example: spectron-migrate explain 6f6d9f29-9dce-4ae8-86dc-4858abf1e354
    """
    return run_command("explain", options, lambda invocation: run(invocation, mem0_id, dump, mapping))


def run(invocation: Invocation, mem0_id: str, dumps: list[Path] | None, mapping: Path | None) -> CommandResult:
    """Show one page, also for an id that nobody knows."""
    settings = invocation.settings({"mapping": mapping})
    invocation.carry("--dump", *(dumps or ()))
    invocation.carry("--mapping", mapping)
    with ExitStack() as stack:
        body = run_async(invocation, _explain(invocation, settings, mem0_id, dumps, stack))
    return CommandResult(ExitCode.DONE, body, draw(body), next=_next(body))


async def _explain(
    invocation: Invocation, settings: Settings, mem0_id: str, dumps: list[Path] | None, stack: ExitStack
) -> dict[str, Json]:
    from spectron_migrate.explain import Sources, explain_memory, explain_user
    from spectron_migrate.ledger.runs import last_runs
    from spectron_migrate.mapping import load_mapping

    paths = dumps or ([settings.dump] if settings.dump.exists() else [])
    opened = stack.enter_context(open_dump(paths)) if paths else None
    ledger = _ledger(invocation, stack)
    if ledger is not None and not (dumps or invocation.carried):
        carry_last_replay(invocation, last_runs(ledger))
    try:
        api = open_api(settings, max_connections=4)
    except MigrateError as error:
        invocation.reporter.warn(f"Spectron is not asked: {error.message}")
        api = None
    offline = Sources(opened, ledger, load_mapping(settings.mapping), None)
    try:
        user = await explain_user(offline, mem0_id)
        if user is not None:
            return user
        return await explain_memory(_with_systems(invocation, settings, offline, api, paths, stack), mem0_id)
    finally:
        if api is not None:
            await api.close()


def _ledger(invocation: Invocation, stack: ExitStack) -> Ledger | None:
    """The ledger; None if nothing was replayed yet."""
    from spectron_migrate.ledger import Ledger

    if not Ledger.exists(invocation.state):
        return None
    return stack.enter_context(Ledger.open_for_reading(invocation.state))


def _with_systems(
    invocation: Invocation, settings: Settings, offline: Sources, api: Any, paths: list[Path], stack: ExitStack
) -> Sources:
    from dataclasses import replace

    from spectron_migrate.cli.dual_verify import VerifyRequest, open_mem0

    mem0 = open_mem0(invocation, settings, VerifyRequest(dumps=paths), stack)
    if mem0 is None:
        return replace(offline, api=api)
    side = mem0

    def search(text: str, memory: Memory, most: int) -> list[Any]:
        owners = {"user_id": memory.user_id, "agent_id": memory.agent_id, "run_id": None}
        if not any(owners.values()):
            owners["run_id"] = memory.run_id
        return side.search(text, **owners, top_k=most)

    return replace(offline, api=api, search_mem0=search)


def _next(body: Mapping[str, Json]) -> str | None:
    return {
        "not sent yet": "spectron-migrate replay",
        "in doubt": "spectron-migrate replay",
        "undecidable": "spectron-migrate status",
        "refused": "spectron-migrate replay --retry-failed",
    }.get(str(body.get("fate")))


def draw(body: Mapping[str, Json]) -> Iterator[RenderableType]:
    """The page for people."""
    if body["kind"] == "user":
        yield from _draw_user(body)
        return
    yield facts(f"Memory {body['id']}: {body['fate']}", [("why", body["why"])])
    yield facts("In Mem0", _mem0_rows(body["mem0"]))
    if body["mem0"]["history"]:
        rows = [
            (row["created_at"], row["event"], row["new_memory"] or row["old_memory"]) for row in body["mem0"]["history"]
        ]
        yield listing("Its history in Mem0", ("when", "event", "text"), rows, unbroken=("when",))
    yield facts("The mapping", _mapping_rows(body["mapping"]))
    for version in body["versions"]:
        yield facts(
            f"Ledger, version {version['number']}: {STATES.get(version['state'], version['state'])}",
            _version_rows(version),
        )
    if body["pending"] is not None:
        yield facts("Pending", [("text in Mem0", body["pending"])])
    yield facts("In Spectron now", _spectron_rows(body))
    for name, side in (("Mem0", body["search"]["mem0"]), ("Spectron", body["search"]["spectron"])):
        yield from _draw_search(name, side, body["id"])


def _draw_user(body: Mapping[str, Json]) -> Iterator[RenderableType]:
    fates = [(fate, number(count)) for fate, count in body["fates"].items()]
    shown = ", ".join(body["scopes"][:5])
    yield facts(f"User {body['id']}: {counted(body['memories'], 'memory')}", [*fates, ("scopes", shown)])
    rows = [(row["id"], row["fate"], plain(row["text"] or "", width=TEXT)) for row in body["rows"][:MOST_SHOWN]]
    rest = f", {number(MOST_SHOWN)} of them" if len(body["rows"]) > MOST_SHOWN else ""
    title = f"Its memories by the ledger{rest}; explain ID asks Spectron too"
    yield listing(title, ("memory", "fate", "text"), rows)
    for fate, whys in _whys(body["rows"]).items():
        yield facts(f"Why {fate}", [(number(count), why) for why, count in whys.most_common()])


def _whys(rows: Sequence[Mapping[str, Json]]) -> dict[str, Counter[str]]:
    """Fate -> reason -> memories."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row["fate"], Counter())[row["why"]] += 1
    return found


def _mem0_rows(mem0: Mapping[str, Json]) -> list[tuple[str, object]]:
    record = mem0["record"]
    if record is None:
        return [("record", "none, in dump or ledger")]
    owners = ", ".join(
        f"{name} {record[name]}" for name in ("user_id", "agent_id", "run_id", "app_id") if record.get(name)
    )
    rows = [
        ("text", record["memory"]),
        ("of", owners),
        ("created, updated", f"{record['created_at'] or 'not known'}, {record['updated_at'] or 'never'}"),
        ("its text is of", f"{record.get('text_at')} ({record.get('text_at_source')})"),
        ("expires", record.get("expiration_date") or ""),
        ("in the dump", "yes" if mem0["in_dump"] else "no"),
        ("gone since", mem0["gone_since"] or ""),
    ]
    return [(name, value) for name, value in rows if value]


def _mapping_rows(mapping: Mapping[str, Json] | None) -> list[tuple[str, object]]:
    if mapping is None:
        return [("scope", "none: there is no record to map")]
    if mapping["skipped"]:
        return [("not written", mapping["skipped"])]
    return [
        ("scope", " or ".join(" and ".join(clause) for clause in mapping["scopes"])),
        ("lane", mapping["lane"]),
        ("extraction", f"{mapping['infer']}, category {mapping['category']}"),
        ("labels", ", ".join(mapping["labels"]) or "none"),
    ]


def _version_rows(version: Mapping[str, Json]) -> list[tuple[str, object]]:
    tries = f"{counted(version['attempts'] or 0, 'more try', 'more tries')} after the first, candidate turn: "
    doubt = f"{tries}{version['candidate'] or 'none'}" if version["state"] == "intended" else ""
    rows = [
        ("text", version["text"] or "not kept"),
        ("its text is of", version["text_at"] or "an unknown time"),
        ("planned", version["recorded_at"]),
        ("reason", version["reason"] or ""),
        ("late", "yes: it superseded nothing" if version["late"] else ""),
        ("in the turn of", f"message {version['message']}" if version["message"] else ""),
        ("session, turn", f"{version['session']}, {version['turn']}" if version["turn"] else ""),
        ("decided by", version["decided_by"] or ""),
        ("in doubt", doubt),
        ("facts made", number(version["made"]) if version["made"] else ""),
        ("residue", number(version["residue"]) if version["residue"] else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _spectron_rows(body: Mapping[str, Json]) -> list[tuple[str, object]]:
    found = body["spectron"]
    if found is None:
        return [("nothing", body["spectron_problem"])]
    rows: list[tuple[str, object]] = [("turn", found["turn"]), ("passages", number(len(found["passages"])))]
    rows += [("  passage", text) for text in found["passages"][:3]]
    for fact in found["facts"][:10]:
        rows.append(("fact" if fact["live"] else "fact, no longer live", f"{fact['key']}: {fact['value']}"))
    for newer in found["superseded_by"]:
        rows.append(("superseded by", f"{newer['key']}: {newer['new']} (memory {newer['memory']})"))
    return [*rows, *([("not known", found["unknown"])] if found["unknown"] else [])]


def _draw_search(name: str, side: Mapping[str, Json], mem0_id: str) -> Iterator[RenderableType]:
    if side["error"]:
        yield facts(f"A search in {name}", [("no answer", side["error"])])
        return
    rank = f"at rank {side['rank']}" if side["rank"] else "not found"
    if not side["hits"]:
        yield facts(f"A search in {name} for its own words", [("found", "nothing")])
        return
    rows = [("*" if hit["memory"] == mem0_id else "", hit["text"]) for hit in side["hits"]]
    yield listing(f"A search in {name} for its own words: {rank}", ("", "hit"), rows)
