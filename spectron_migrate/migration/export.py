"""Export: reads all of Mem0 into the dump, with counts that prove it complete."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spectron_migrate.dump.changes_writer import ChangesWriter
from spectron_migrate.dump.manifest import HISTORY, RELATIONS, SKIPPED, describe_relations
from spectron_migrate.dump.merge import DumpUpdate
from spectron_migrate.dump.owners_seen import OwnersSeen
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import ExitCode, Incomplete, InputError
from spectron_migrate.garbage import fewer_collections
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.passes import ReadResult, read_all
from spectron_migrate.records import Filters, Json, Skipped, counted
from spectron_migrate.reporter import Reporter

_MOST_LISTED = 100


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export read and what it changed in the dump."""

    source: str
    complete: bool | None
    """None: completeness cannot be proven, but nothing is known to be missing."""
    memories: int
    """Memories in the dump now, without the deleted ones."""
    native_count: int | None
    users: int
    agents: int
    runs: int
    skipped: tuple[Skipped, ...]
    """At most 100; `skipped.jsonl` in the dump lists all."""
    skipped_count: int
    skipped_reasons: Mapping[str, int]
    filtered: int
    new: int
    changed_text: int
    changed_otherwise: int
    deleted: int
    returned: tuple[str, ...]
    relations: int
    """Graph relations in the dump, which are not moved."""
    dump: str
    differing: frozenset[str] | None = None
    """Ids of memories that are new, deleted, back, or have another text; None if there are too many to name."""

    @property
    def changed(self) -> int:
        """Number of memories whose text, metadata, times or state differ from the last export."""
        return self.changed_text + self.changed_otherwise

    @property
    def exit_code(self) -> ExitCode:
        """0, or 11 if something is missing."""
        return ExitCode.INCOMPLETE if self.complete is False else ExitCode.DONE

    def to_json(self) -> dict[str, Json]:
        """The fields of `export --json`, without the common envelope."""
        return {
            "source": self.source,
            "complete": self.complete,
            "memories": self.memories,
            "native_count": self.native_count,
            "users": self.users,
            "agents": self.agents,
            "runs": self.runs,
            "skipped": [{"id": row.id, "reason": row.reason} for row in self.skipped],
            "skipped_count": self.skipped_count,
            "skipped_reasons": dict(self.skipped_reasons),
            "skipped_path": f"{self.dump}/{SKIPPED}" if self.skipped_count else None,
            "filtered": self.filtered,
            "new": self.new,
            "changed": self.changed,
            "changed_text": self.changed_text,
            "deleted": self.deleted,
            "returned": list(self.returned[:_MOST_LISTED]),
            "returned_count": len(self.returned),
            "relations": self.relations,
            "dump": self.dump,
        }


def run_export(
    reader: Reader,
    dump_dir: Path,
    *,
    filters: Filters,
    since: str | None,
    keep_history: bool,
    reporter: Reporter,
    clock: Callable[[], datetime],
    fence: str | None = None,
    keep_changes: Callable[[ChangesWriter | None], None] | None = None,
) -> ExportSummary:
    """Read everything that the filters admit and bring the dump in `dump_dir` up to date.

    `since` (a time as `format_time` writes it) only makes the reading shorter; `clock` returns a time with a zone.
    `keep_changes` receives the writer of later changes to this dump, if there can be one, and has to close it. An
    incomplete reading is kept, and the summary says so. Raises InputError if the directory holds the dump of another
    source, Incomplete if the source reads as empty although the dump holds memories of it.
    """
    reader.reporter = reporter
    reader.narrow(filters, since)
    began = clock()
    began = min(began, reader.resume_in(dump_dir) or began)
    try:
        with DumpWriter(dump_dir, reader.info, began, filters=filters, since=since, rereads=reader.rereads) as writer:
            seen = OwnersSeen(filters)
            with fewer_collections():
                reading = read_all(reader, writer, reporter, seen)
            if reading.complete is not False:
                _refuse_empty_source(writer, dump_dir)
                _refuse_unknown_owners(seen, writer, reader)
            if not reading.interrupted:
                _keep_relations_and_history(reader, writer, filters, keep_history)
            skipped = _listed_skipped(writer)
            old = writer.previous
            reporter.stage("bringing the dump up to date", total=old.count if old is not None else None)
            changes = writer.commit(
                complete=reading.complete,
                native_count=reading.native_count,
                ended=clock(),
                fence=fence,
                advance=reporter.advance,
            )
            if keep_changes is not None:
                keep_changes(writer.begin_changes())
    except (OSError, sqlite3.OperationalError) as error:
        raise InputError(
            f"the dump in {dump_dir} cannot be written: {getattr(error, 'strerror', None) or error}",
            hint="the old dump is unharmed; is the disk full?",
        ) from error
    reader.discard_progress()
    for note in (*reader.notes, *reading.unreadable.notes()):
        reporter.warn(note)
    if reading.complete is False:
        reporter.warn(_explain_incomplete(reader, reading, writer))
    elif reading.complete is None:
        reporter.warn(f"not provable that nothing is missing: {reader.unproven}")
    relations = changes.manifest.relations
    if relations:
        reporter.warn(describe_relations(relations))
    return _summary(reader, changes, reading, skipped, dump_dir)


def _refuse_empty_source(writer: DumpWriter, dump_dir: Path) -> None:
    """Raise Incomplete if every memory is gone: nearly always the address is wrong or the store was erased."""
    old = writer.previous
    if old is not None and old.count and not writer.distinct_rows():
        raise Incomplete(
            f"the source reads as empty, but the dump in {dump_dir} holds {counted(old.count, 'memory')} of it",
            hint="if they were all deleted on purpose, export into a new directory",
        )


def _refuse_unknown_owners(seen: OwnersSeen, writer: DumpWriter, reader: Reader) -> None:
    """Raise InputError if neither the source nor the dump has a memory of the owners that were asked for."""
    old = writer.previous
    if not seen.selects and (old is None or not seen.look(old.memories()).selects):
        raise seen.refusal("the source" if reader.info.kind == "files" else f"{reader.info.kind} {reader.info.place}")


def _keep_relations_and_history(reader: Reader, writer: DumpWriter, filters: Filters, keep_history: bool) -> None:
    for relation in reader.relations():
        writer.append_line(RELATIONS, relation)
    if not keep_history:
        return
    if reader.history is None:
        reader.notes.append("there is no history to keep: Mem0's history file is not where the configuration says")
        return
    if filters and writer.previous is not None:  # keep the history of other owners from an earlier export
        for event in writer.previous.history():
            if not writer.has_written(str(event["memory_id"])):
                writer.append_line(HISTORY, event)
    for event in reader.history.rows():
        if not filters or writer.has_written(str(event["memory_id"])):
            writer.append_line(HISTORY, event)


def _listed_skipped(writer: DumpWriter) -> tuple[Skipped, ...]:
    rows = writer.skipped_rows()
    return tuple(row for _, row in zip(range(_MOST_LISTED), rows, strict=False))


def _explain_incomplete(reader: Reader, reading: ReadResult, writer: DumpWriter) -> str:
    missing = reader.missing()
    left_out = writer.left_out()
    if reading.interrupted:
        return "not complete: the connection to the source was lost; run it again"
    if missing:
        which = counted(missing, "memory that the source announces was", "memories that the source announces were")
        return f"not complete: {which} not given"
    if left_out:
        reasons = ", ".join(f"{reason} ({rows:,})" for reason, rows in left_out.items())
        return f"not complete: {counted(sum(left_out.values()), 'row')} with content left out: {reasons}"
    if reading.native_count is None:
        return "not complete: the source does not say how much it holds"
    return f"not complete: the source says it holds {counted(reading.native_count, 'row')}, but gave a different number"


def _summary(
    reader: Reader, changes: DumpUpdate, reading: ReadResult, skipped: tuple[Skipped, ...], dump_dir: Path
) -> ExportSummary:
    manifest = changes.manifest
    return ExportSummary(
        source=reader.info.identity,
        complete=reading.complete,
        memories=manifest.memories,
        native_count=reading.native_count,
        users=len(manifest.users),
        agents=manifest.agents,
        runs=manifest.runs,
        skipped=skipped,
        skipped_count=sum(manifest.skipped.values()),
        skipped_reasons=manifest.skipped,
        filtered=manifest.filtered,
        new=changes.new,
        changed_text=changes.changed_text,
        changed_otherwise=changes.changed_otherwise,
        deleted=changes.deleted,
        returned=manifest.returned,
        relations=manifest.relations,
        dump=str(dump_dir),
        differing=changes.differing,
    )
