"""`init` writes settings that load and describe what it found, and never overwrites a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.init import InitSummary, run_init
from spectron_migrate.mapping.load import parse_mapping
from spectron_migrate.records import Memory
from spectron_migrate.reporter import NullReporter
from spectron_migrate.settings import load_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = {"qdrant": {"provider": "qdrant", "config": {"path": "store", "on_disk": True}}}


def init(folder: Path, *, mem0_config: str | None = None, **env: str) -> InitSummary:
    return run_init(
        settings_file=folder / "spectron-migrate.yaml",
        mem0_config=mem0_config,
        env=env,
        now=NOW,
        reporter=NullReporter(),
    )


def settings_of(summary: InitSummary, **env: str) -> Any:
    return load_settings(summary.files[0], env=env, overrides={})


def write_rows(path: Path, *owners: dict[str, str]) -> None:
    rows = [{"id": f"m{number}", "memory": "Likes tea", **ids} for number, ids in enumerate(owners)]
    path.write_text(json.dumps({"results": rows}))


def test_raw_files_are_found_counted_and_ready_to_be_exported(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "get_all_1.json",
        {"user_id": "anna"},
        {"user_id": "anna", "agent_id": "cook", "run_id": "r"},
        {"agent_id": "cook"},
        {"run_id": "r"},
        {},
    )
    summary = init(tmp_path)
    assert {
        "user_id": 1,
        "user_id and agent_id": 1,
        "agent_id": 1,
        "run_id": 1,
        "nobody": 1,
    } == summary.to_json()["owners"]
    mem0 = settings_of(summary).mem0
    assert "files" == mem0.kind
    assert (str(tmp_path / "get_all*.json"),) == mem0.files
    text = summary.files[1].read_text()
    assert "# Read 5 memories." in text
    assert "# 1 have no owner" in text
    assert "a search by agent_id alone cannot be served" in text
    assert "cook" not in text.replace("cookbook", "")
    assert "anna" not in text


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({"MEM0_API_KEY": "m0-secret"}, "platform"),
        ({"MEM0_BASE_URL": "https://mem0.internal"}, "server"),
        ({"MEM0_BASE_URL": "https://mem0.internal", "MEM0_API_KEY": "m0-secret"}, "server"),
    ],
)
def test_a_service_is_taken_from_the_environment_and_no_key_is_written_down(
    tmp_path: Path, env: dict[str, str], kind: str
) -> None:
    summary = init(tmp_path, **env)
    assert kind == settings_of(summary, **env).mem0.kind
    assert not any(value in file.read_text() for file in summary.files for value in env.values())
    assert "`spectron-migrate export` does" in summary.to_json()["unread"]


@pytest.mark.parametrize(
    "names",
    [
        ("SPECTRON_ENDPOINT", "SPECTRON_CONTEXT", "SPECTRON_API_KEY"),
        ("AGENT_MEMORY_ENDPOINT", "AGENT_MEMORY_CONTEXT", "AGENT_MEMORY_API_KEY"),
        ("SURREAL_MEMORY_URL", "SURREAL_MEMORY_CONTEXT_ID", "SURREAL_MEMORY_API_KEY"),
    ],
)
def test_the_settings_refer_to_the_spectron_variables_that_are_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    env = dict(zip(names, ("https://spectron.example", "acme", "sk-1"), strict=True))
    access = settings_of(init(tmp_path, **env), **env).spectron.require()
    assert "https://spectron.example" == access.endpoint
    assert "acme" == access.context
    assert "sk-1" == access.api_key.reveal()


def test_a_mem0_config_is_recognised_by_its_content_and_another_config_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("database: somebody elses\n")
    assert None is init(tmp_path).to_json()["mem0"]
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    (tmp_path / "config.json").write_text(json.dumps({"vector_store": PATHS["qdrant"]}))
    summary = init(tmp_path)
    assert "oss" == settings_of(summary).mem0.kind
    assert str(tmp_path / "config.json") == settings_of(summary).mem0.config
    assert "there is no" in str(summary.to_json()["unread"]) or summary.found.unread


def test_the_path_of_a_named_config_is_relative_to_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mem0.json").write_text(json.dumps({"vector_store": PATHS["qdrant"]}))
    monkeypatch.chdir(tmp_path / "app")
    summary = init(tmp_path, mem0_config="mem0.json")
    assert str(tmp_path / "app" / "mem0.json") == settings_of(summary).mem0.config
    assert '"app/mem0.json"' in summary.files[0].read_text()


@pytest.mark.parametrize("there", ["spectron-migrate.yaml", "mapping.yaml"])
def test_the_file_that_is_missing_is_written_and_the_other_stays(tmp_path: Path, there: str) -> None:
    write_rows(tmp_path / "get_all.json", {"agent_id": "cook"})
    init(tmp_path)
    (tmp_path / there).write_text((tmp_path / there).read_text() + "# mine\n")
    (other,) = {"spectron-migrate.yaml", "mapping.yaml"} - {there}
    before = (tmp_path / other).read_text()
    (tmp_path / other).unlink()
    summary = init(tmp_path)
    assert (tmp_path / other,) == summary.files
    assert (tmp_path / there,) == summary.kept
    assert (tmp_path / there).read_text().endswith("# mine\n")
    assert before.partition("# Read")[2] == (tmp_path / other).read_text().partition("# Read")[2]
    with pytest.raises(InputError, match="exists already"):
        init(tmp_path)


def test_a_mapping_that_does_not_load_does_not_keep_the_settings_from_being_written(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("mine")
    assert (tmp_path / "spectron-migrate.yaml",) == init(tmp_path).files
    assert "mine" == (tmp_path / "mapping.yaml").read_text()


def test_a_bad_config_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("vector_store: {provider: nonsense}")
    for config in (str(tmp_path / "bad.yaml"), str(tmp_path / "missing.yaml"), "-"):
        with pytest.raises(InputError):
            init(tmp_path, mem0_config=config)
    assert ["bad.yaml"] == [file.name for file in tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        init(tmp_path / "nowhere")


def test_tenants_in_ids_are_noticed_and_the_shown_rule_works(tmp_path: Path) -> None:
    write_rows(tmp_path / "get_all.json", *({"user_id": f"acme:u{number}"} for number in range(10)))
    text = init(tmp_path).files[1].read_text()
    assert "# 10 user ids look like tenant:user." in text
    shown = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#   ")]
    mapping = parse_mapping("version: 1\nrules:\n" + "\n".join(shown) + "\n", tmp_path)
    placement: Any = mapping.map_memory(Memory(id="1", memory="Likes tea", user_id="acme:bo"))
    assert (("org/acme/user/x--acme-3abo",),) == placement.selector


def test_without_a_mem0_the_settings_load_and_show_how_to_name_one(tmp_path: Path) -> None:
    summary = init(tmp_path)
    assert None is settings_of(summary).mem0
    assert "no Mem0 was found here" in summary.files[0].read_text()
