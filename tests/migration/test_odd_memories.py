"""Memories with odd ids, texts and fields: none keeps the others from being written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import segment
from spectron_migrate.reporter import NullReporter
from tests.support.replaying import mapping_file, texts
from tests.support.spectron import memory, replay, turns_of, write_raw
from tests.verify.support import verify

pytestmark = pytest.mark.slow

HALF = "\ud83d"


@pytest.mark.parametrize(
    "odd",
    [
        {"run_id": f"r{HALF}"},
        {"actor_id": f"a{HALF}"},
        {"role": f"a{HALF}"},
        {"metadata": {"kind": f"x{HALF}", f"y{HALF}": 1}},
        {"created_at": f"2025-01-01T00:00:00{HALF}"},
        {"hash": HALF},
        {"categories": [HALF]},
        {"memory": "a\x00b"},
        {"id": "m\x00n"},
        {"user_id": "u\x00v"},
        {"agent_id": ""},
        {"expiration_date": f"2099-01-01{HALF}"},
        {"memory": "x" * 1_000_000},
    ],
)
@pytest.mark.parametrize("rule", ["", "labels: {kind: 'x'}\n"])
def test_an_odd_memory_does_not_keep_the_others_from_being_written(
    spectron: RunningServer, user: str, tmp_path: Path, odd: dict[str, Any], rule: str
) -> None:
    odd = {name: f"{value}{user}" if name.endswith("id") and value else value for name, value in odd.items()}
    rows = [memory(1, user), {**memory(2, user), **odd}, memory(3, user)]
    dump = write_raw(tmp_path / "all.json", rows)
    done = replay(spectron, tmp_path / "state", [dump], mapping=mapping_file(tmp_path, rule))
    again = replay(spectron, tmp_path / "state", [dump], mapping=mapping_file(tmp_path, rule))
    assert {f"{user} remembers thing number {number}" for number in (1, 3)} <= set(texts(spectron, user))
    assert 3 == done.planned
    assert 0 == again.written


def test_an_id_with_half_a_surrogate_pair_is_named_and_the_others_are_written(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(1, user), {**memory(2, user), "id": f"m{HALF}"}, memory(3, user)]
    reporter = NullReporter()
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], reporter=reporter)
    assert {f"{user} remembers thing number {number}" for number in (1, 3)} == set(texts(spectron, user))
    assert any("half a letter" in said for said in reporter.warnings)


def test_a_text_that_no_server_accepts_does_not_count_as_missing(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [*(memory(number, user) for number in range(3)), memory(4, user, HALF)])
    replay(spectron, tmp_path / "state", [dump])
    found = verify(spectron, tmp_path / "state", [dump])
    assert "GO" == found.verdict
    assert 1 == found.to_json()["integrity"]["skipped"]


def test_half_a_surrogate_pair_in_a_field_of_a_rule_skips_only_that_memory(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    path = tmp_path / "mapping.yaml"
    scope = "{user: '{user_id}', team: '{metadata.team}'}"
    path.write_text(f"version: 1\nrules:\n  - when: {{user_id: '*', metadata.team: '*'}}\n    scope: {scope}\n")
    rows = [memory(1, user, metadata={"team": "a"}), memory(2, user, metadata={"team": HALF})]
    done = replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], mapping=path)
    assert 2 == done.planned
    assert f"{user} remembers thing number 1" in texts(spectron, user)


def test_half_a_surrogate_pair_in_a_text_is_refused_or_skipped(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user), memory(2, user, "half \ud83d of it")])
    try:
        summary = replay(spectron, tmp_path / "state", [dump])
    except InputError:
        return
    assert 1 == summary.written + summary.already
    assert 1 == summary.refused + summary.skipped


def test_ids_that_look_like_paths_and_patterns_stay_in_scopes_of_their_own(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    ids = [f"{user}{tail}" for tail in ("/../bob", "/*", "*", "..", "/", " ", "%2e", "É", "\x00", "x" * 80)]
    rows = [{**memory(1, one, f"secret of {number}"), "id": f"{user}-{number}"} for number, one in enumerate(ids)]
    summary = replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    assert ExitCode.DONE == summary.exit_code
    assert len(ids) == summary.written
    assert len(ids) == summary.scopes
    for number, one in enumerate(ids):
        assert [f"secret of {number}"] == [turn.content for turn in turns_of(spectron, segment(one))]


def test_rows_of_raw_files_that_are_not_written_are_named_in_warnings(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """Ids of small stores begin at 1 in each of them; and a page may be missing."""
    rows = [{**memory(1, f"{user}a"), "id": "1"}, {**memory(2, f"{user}b"), "id": "1"}, {**memory(3, user), "id": ""}]
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"count": 5, "next": None, "results": rows}))
    reporter = NullReporter()
    replay(spectron, tmp_path / "state", [path], reporter=reporter)
    said = "\n".join(reporter.warnings)
    assert "memory 1: the same id with another owner" in said
    assert "a text without an id" in said
    assert "3 memories that the pages announce are missing" in said


def test_a_raw_listing_that_mem0_may_have_truncated_gives_a_warning(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    reporter = NullReporter()
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    replay(spectron, tmp_path / "state", [dump], reporter=reporter)
    assert any("a listing that Mem0 silently truncates" in said for said in reporter.warnings)
