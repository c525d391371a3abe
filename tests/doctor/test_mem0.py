"""Mem0 and its store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.doctor.mem0 import check_mem0
from spectron_migrate.errors import ExitCode
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY
from tests.doctor.support import NOW, check_of
from tests.mem0.standins import KEY, Qdrant, serving


@pytest.mark.parametrize(
    ("version", "on_disk", "status"),
    [("0.1.118", False, "fail"), ("1.0.7", False, "fail"), ("1.0.8", False, "warn"), ("0.1.118", True, "ok")],
)
def test_a_mem0_that_erases_the_store_it_opens_is_reported(
    tmp_path: Path, version: str, on_disk: bool, status: str
) -> None:
    config = {"vector_store": {"provider": "qdrant", "config": {"path": str(tmp_path), "on_disk": on_disk}}}
    (tmp_path / "mem0.json").write_text(json.dumps(config))
    checks = check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version=version, now=NOW)
    assert status == check_of(checks, "mem0 version").status


@pytest.mark.parametrize(("settings", "warns"), [({}, True), ({"onDisk": False}, True), ({"onDisk": True}, False)])
@pytest.mark.parametrize("version", [None, "2.2.1"])
def test_a_folder_that_typescript_erases_when_it_opens_it_is_reported(
    tmp_path: Path, version: str | None, settings: dict[str, bool], warns: bool
) -> None:
    store = {"provider": "qdrant", "config": {"path": str(tmp_path), **settings}}
    (tmp_path / "mem0.json").write_text(json.dumps({"vectorStore": store}))
    checks = list(check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version=version, now=NOW))
    found = check_of(iter(checks), "mem0 version")
    assert warns == ("for TypeScript erases" in found.finding)
    if warns:
        assert "warn" == found.status
        assert "onDisk: true" in found.hint


def test_a_store_that_cannot_be_read_is_reported_with_the_alternative(tmp_path: Path) -> None:
    (tmp_path / "mem0.json").write_text(json.dumps({"vector_store": {"provider": "langchain", "config": {}}}))
    checks = check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version="2.2.1", now=NOW)
    assert "export --from" in check_of(checks, "mem0", "fail").hint


@pytest.mark.parametrize(
    ("rights", "finding"),
    [
        ("all", "1 row"),
        ("count", "reads as empty, but counts 1 row"),
        ("list", "refuses the key"),
    ],
)
def test_the_first_page_of_a_served_store_is_tried_as_well(tmp_path: Path, rights: str, finding: str) -> None:
    class Limited(Qdrant):
        def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
            if path.endswith("/scroll") and rights == "list":
                return 403, {"status": {"error": "forbidden"}}
            if path.endswith("/scroll") and rights == "count":
                return 200, {"result": {"points": [], "next_page_offset": None}}
            return super().answer(method, path, query, body)

    with serving(Limited({"00000000-0000-4000-8000-000000000001": {"data": "tea"}})) as url:
        store = {"provider": "qdrant", "config": {"url": url, "api_key": KEY, "collection_name": "mem0"}}
        (tmp_path / "mem0.json").write_text(json.dumps({"vector_store": store}))
        checks = check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version="2.2.1", now=NOW)
        found = check_of(checks, "mem0")
    assert finding in found.finding
    assert ("fail" if rights != "all" else "warn") == found.status


@pytest.fixture(scope="module")
def store(rehearsal_store: Path) -> dict[str, Any]:
    """The config of a small real Mem0 store with an embedder that runs in this process."""
    config: dict[str, Any] = json.loads(rehearsal_store.read_text(encoding="utf-8"))
    return config


@pytest.mark.slow
def test_mem0_is_asked_one_real_question(store: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mem0.json").write_text(json.dumps(store))
    checks = check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version="2.2.1", now=NOW)
    check = check_of(checks, "mem0 search")
    assert "ok" == check.status
    assert "embedder wordllama (offline)" in check.finding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embedder", "status", "finding"),
    [
        (
            {"provider": "ollama", "config": {"ollama_base_url": "http://127.0.0.1:1"}},
            "fail",
            "Mem0's embedder ollama at http://127.0.0.1:1 did not answer (connection refused)",
        ),
        ({"provider": "openai", "config": {}}, "warn", "Mem0's embedder openai could not be constructed: OpenAIError"),
    ],
)
def test_an_embedder_that_cannot_be_asked_is_found_before_the_verification(
    store: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedder: dict[str, Any],
    status: str,
    finding: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = {name: value for name, value in store.items() if name != OWN_KEY}
    (tmp_path / "mem0.json").write_text(json.dumps({**config, "embedder": embedder}))
    checks = list(check_mem0({"oss": {"config": str(tmp_path / "mem0.json")}}, version="2.2.1", now=NOW))
    assert "ok" == check_of(iter(checks), "mem0").status
    check = check_of(iter(checks), "mem0 search")
    assert (status, finding) == (check.status, check.finding)
    assert "--mem0-results" in check.hint
    assert check.exit_code == (ExitCode.UNREACHABLE if status == "fail" else ExitCode.INPUT)
