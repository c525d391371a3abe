"""What should be in Spectron: every memory is exactly one of stored, missing, pending, skipped, gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.memories import LastVersion
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory, digest
from spectron_migrate.verify.expected import ExpectationRules, expectation_of
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import named_findings, verify

AT = "2025-01-01T00:00:00.000000Z"


LATER = "2025-06-01T00:00:00.000000Z"


HELD = Memory(id="m", memory="Likes tea", user_id="anna", text_at=AT, created_at=AT)


WRITTEN = LastVersion(
    1, "Likes tea", digest("Likes tea"), AT, AT, "written", None, '[["user/anna"]]', None, any_stored=True
)


def rules(
    *, planned: bool = True, began: str | None = None, accepted: frozenset[str] = frozenset()
) -> ExpectationRules:
    return ExpectationRules(load_mapping(None), planned, began, accepted)


@pytest.mark.parametrize(
    ("held", "last", "given_rules", "expected"),
    [
        pytest.param(HELD, WRITTEN, rules(), ("stored", ()), id="stored"),
        pytest.param(HELD, None, rules(), ("missing", ()), id="never planned"),
        pytest.param(HELD, replace(WRITTEN, tombstoned_at=LATER), rules(began=AT), ("gone", ("stale",)), id="deleted"),
        pytest.param(
            HELD,
            replace(WRITTEN, tombstoned_at=LATER),
            replace(rules(began=AT), is_last=True),
            ("pending", ()),
            id="deleted by a clock that is wrong",
        ),
        pytest.param(
            HELD, replace(WRITTEN, tombstoned_at=LATER), rules(), ("pending", ()), id="deleted, or seen again"
        ),
        pytest.param(HELD, replace(WRITTEN, tombstoned_at=AT), rules(began=LATER), ("stored", ()), id="seen again"),
        pytest.param(
            replace(HELD, state="expired"),
            replace(WRITTEN, state="planned"),
            rules(),
            ("skipped", ("stale",)),
            id="expired, with an older text there",
        ),
        pytest.param(HELD, None, rules(planned=False), ("pending", ()), id="new since the replay"),
        pytest.param(
            replace(HELD, memory="Likes coffee", text_at=LATER), WRITTEN, rules(), ("pending", ("stale",)), id="edited"
        ),
        pytest.param(
            replace(HELD, memory="Likes coffee"),
            WRITTEN,
            rules(began=LATER),
            ("pending", ("stale",)),
            id="edited, known by the scan alone",
        ),
        pytest.param(
            replace(HELD, memory="Liked milk", text_at="2024-01-01T00:00:00.000000Z"),
            WRITTEN,
            rules(),
            ("pending", ("stale",)),
            id="another text, with an earlier time",
        ),
        pytest.param(
            replace(HELD, memory="Likes coffee"),
            WRITTEN,
            rules(),
            ("pending", ("stale",)),
            id="edited at an equal time",
        ),
        pytest.param(
            replace(HELD, memory="Likes coffee", text_at=None),
            WRITTEN,
            rules(),
            ("pending", ("stale",)),
            id="edited without a time",
        ),
        pytest.param(
            replace(HELD, memory="Likes coffee"),
            replace(WRITTEN, recorded_at=LATER),
            rules(began=AT),
            ("pending", ()),
            id="the ledger recorded its text after the dump was read",
        ),
        pytest.param(replace(HELD, state="expired"), WRITTEN, rules(), ("skipped", ("stale",)), id="expired since"),
        pytest.param(replace(HELD, state="expired"), None, rules(), ("skipped", ()), id="expired before"),
        pytest.param(replace(HELD, memory="  "), None, rules(), ("skipped", ()), id="nothing but spaces"),
        pytest.param(HELD, replace(WRITTEN, state="planned"), rules(), ("missing", ()), id="not sent"),
        pytest.param(HELD, replace(WRITTEN, state="intended"), rules(), ("missing", ()), id="in doubt"),
        pytest.param(HELD, replace(WRITTEN, state="undecidable"), rules(), ("missing", ()), id="undecidable"),
        pytest.param(HELD, replace(WRITTEN, state="refused"), rules(), ("missing", ()), id="refused"),
        pytest.param(
            HELD,
            replace(WRITTEN, state="refused"),
            rules(accepted=frozenset({"m"})),
            ("skipped", ()),
            id="refused and accepted",
        ),
        pytest.param(
            HELD,
            replace(WRITTEN, selector='[["user/bo"]]'),
            rules(),
            ("stored", ("misplaced",)),
            id="mapped elsewhere",
        ),
    ],
)
def test_a_memory_has_the_expectation_that_follows_from_dump_and_ledger(
    held: Memory, last: LastVersion | None, given_rules: ExpectationRules, expected: tuple[str, tuple[str, ...]]
) -> None:
    expectation = expectation_of(held, last, given_rules)
    assert expected == (expectation.kind, tuple(finding.kind for finding in expectation.findings))


def test_a_reason_holds_only_the_status_of_the_servers_answer() -> None:
    refused = replace(WRITTEN, state="refused", reason="422 the text 'Likes tea' is too short")
    assert "refused (422)" == expectation_of(HELD, refused, rules()).reason


def test_memories_after_a_stopped_replay_are_named_missing(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(6)])
    replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=4))
    summary = verify(spectron, tmp_path / "state", [dump])
    integrity = summary.to_json()["integrity"]
    assert 6 == integrity["expected"]
    assert 4 == integrity["present"]
    assert [f"{user}-0004", f"{user}-0005"] == integrity["missing"]
    assert ExitCode.NO_GO == summary.exit_code


def test_changes_in_mem0_after_the_replay_are_pending_and_inconclusive(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user) for number in range(3)]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "old.json", rows[:2])])
    changed = {**rows[0], "memory": "Something else now", "updated_at": "2025-02-01T00:00:00+00:00"}
    newer = write_raw(tmp_path / "new.json", [changed, *rows[1:]])
    summary = verify(spectron, tmp_path / "state", [newer])
    integrity = summary.report["measured"]["integrity"]
    assert 3 == integrity["expected"]
    assert 1 == integrity["present"]
    assert 2 == integrity["pending"]
    assert 1 == integrity["stale"]
    assert ExitCode.INCONCLUSIVE == summary.exit_code
    assert {("pending", rows[0]["id"]), ("pending", rows[2]["id"]), ("stale", rows[0]["id"])} == named_findings(summary)


def test_another_sources_dump_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        db.execute("UPDATE migration SET source = 'platform:other'")
    with pytest.raises(WrongLedger, match="belongs to source platform:other"):
        verify(spectron, tmp_path / "state", [dump])


def test_a_memory_deleted_according_to_the_dump_alone_is_stale(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    from spectron_migrate.dump.writer import DumpWriter
    from spectron_migrate.records import SourceInfo

    def export(rows: int, at: datetime) -> Path:
        held = [
            Memory(id=f"{user}{n}", memory=f"Told about topic{n} on day{n}", user_id=user, created_at=AT, text_at=AT)
            for n in range(rows)
        ]
        with DumpWriter(tmp_path / "dump", SourceInfo("server", user), at) as writer:
            for one in held:
                writer.add(one)
            writer.commit(complete=True, native_count=rows, ended=at)
        return tmp_path / "dump"

    replay(spectron, tmp_path / "state", [export(3, datetime(2025, 2, 1, tzinfo=UTC))])
    dump = export(2, datetime(2025, 3, 1, tzinfo=UTC))
    summary = verify(spectron, tmp_path / "state", [dump])
    integrity = summary.report["measured"]["integrity"]
    assert 2 == integrity["expected"]
    assert 2 == integrity["present"]
    assert 1 == integrity["deleted"]
    assert 1 == integrity["stale"]
    assert {("stale", f"{user}2")} == named_findings(summary)
    shown = [hit for answer in summary.report["answers"] for hit in answer["spectron"]["hits"]]
    assert {"stale"} == {hit["dropped"] for hit in shown if hit["memory"] == f"{user}2"}
    assert "GO" == summary.verdict
