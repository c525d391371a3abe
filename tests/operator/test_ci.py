"""The CI files in configs/ci are tested by running their commands."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectron_migrate.local.testing import RunningServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CI = ROOT / "configs" / "ci"
STORE = ROOT / "tests" / "data" / "mem0" / "2.2.1-qdrant"
BIN = Path(sys.executable).parent
RUN = "$GITHUB_RUN_ID-$GITHUB_RUN_ATTEMPT"


def github(job: str) -> list[str]:
    """The commands of a job without those that install, because the program is installed already."""
    steps = yaml.safe_load((CI / "github-actions.yml").read_text())["jobs"][job]["steps"]
    return [step["run"] for step in steps if "run" in step and not step["run"].startswith("pip install")]


def gitlab(job: str) -> list[str]:
    return list(yaml.safe_load((CI / "gitlab-ci.yml").read_text())[job]["script"])


@pytest.fixture
def checkout(tmp_path: Path, spectron: RunningServer) -> dict[str, Any]:
    """A repository as the CI files expect it, and the environment of a runner."""
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copytree(STORE / "store", folder / "store")
    store = {"path": "store", "collection_name": "mem0", "on_disk": True}
    config = {"vector_store": {"provider": "qdrant", "config": store}, "history_db_path": str(STORE / "history.db")}
    (folder / "mem0.json").write_text(json.dumps(config))
    (folder / "spectron-migrate.yaml").write_text("version: 1\nmem0: {oss: {config: mem0.json}}\n")
    shutil.copy(CI / "mapping.ci.yaml", folder)
    names = ("PATH", "HOME", "LANG", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "CI": "true",
        "SPECTRON_ENDPOINT": spectron.base_url,
        "SPECTRON_CONTEXT": spectron.context,
        "SPECTRON_API_KEY": spectron.api_key,
        "GITHUB_RUN_ID": "4711",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    return {"cwd": folder, "env": environment}


def run_all(commands: list[str], checkout: dict[str, Any]) -> list[int]:
    """Run commands as a runner does; the exit codes up to the first that fails."""
    codes = []
    for command in commands:
        ended = subprocess.run(["bash", "-eo", "pipefail", "-c", command], capture_output=True, text=True, **checkout)
        codes.append(ended.returncode)
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.returncode:
            break
    return codes


def published(checkout: dict[str, Any]) -> str:
    return "".join((checkout["cwd"] / "reports" / name).read_text() for name in ("verify.xml", "verify.md"))


@pytest.mark.parametrize("job", ["trial", "gate"])
def test_both_services_run_the_same_commands(job: str) -> None:
    """So that running those of one is enough."""
    theirs = [command.replace("$CI_PIPELINE_ID-$CI_JOB_ID", RUN) for command in gitlab(job)]
    assert [command for command in github(job) if "GITHUB_STEP_SUMMARY" not in command] == theirs


def test_a_rehearsal_writes_below_a_prefix_of_its_own_and_publishes_no_text(
    checkout: dict[str, Any], spectron: RunningServer
) -> None:
    commands, prefix = github("trial"), "4711-1"
    assert [0] * len(commands) == run_all(commands, checkout)
    texts = [json.loads(line)["memory"] for line in (checkout["cwd"] / "dump" / "memories.jsonl").open()]
    assert texts
    reports = published(checkout)
    assert "dual-verify: GO" in reports
    assert [] == [text for text in texts if text in reports]
    with sqlite3.connect(checkout["cwd"] / ".spectron-migrate" / "ledger.db") as db:
        scopes = {path for (path,) in db.execute("SELECT path FROM scope WHERE intended_at IS NOT NULL")}
    assert scopes
    assert [] == [path for path in scopes if not f"{path}/".startswith(f"ci/{prefix}/") and path != "ci"]
    assert "dual-verify: GO" in (checkout["cwd"] / "summary.md").read_text()


@pytest.mark.timeout(300)
def test_a_gate_goes_on_on_another_runner_and_fails_before_a_cutover_has_begun(
    checkout: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, postgres_state: str
) -> None:
    from spectron_migrate.local.testing import running_server

    commands = github("gate")
    with running_server(tmp_path_factory.mktemp("gate"), context="gate") as server:
        checkout["env"] |= {"SPECTRON_ENDPOINT": server.base_url, "SPECTRON_CONTEXT": "gate"}
        checkout["env"] |= {"SPECTRON_API_KEY": server.api_key, "SPECTRON_MIGRATE_STATE": postgres_state}
        check = next(number for number, command in enumerate(commands) if "cutover check" in command)
        written = []
        for _ in range(2):
            assert [*[0] * check, 4] == run_all(commands[: check + 1], checkout)
            shutil.rmtree(checkout["cwd"] / "dump")
            shutil.rmtree(checkout["cwd"] / ".spectron-migrate", ignore_errors=True)
            with sqlite3.connect(server.database) as db:
                written.append(db.execute("SELECT count(*) FROM turns").fetchone()[0])
        assert written[0] == written[1] > 0


def test_only_reports_without_texts_are_published() -> None:
    workflow = yaml.safe_load((CI / "github-actions.yml").read_text())
    for job in workflow["jobs"].values():
        uploads = [step["with"]["path"].split() for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
        assert [["reports/verify.xml", "reports/verify.md"]] == uploads
    kept = yaml.safe_load((CI / "gitlab-ci.yml").read_text())[".migration"]["artifacts"]
    assert {"junit": "reports/verify.xml"} == kept["reports"]
    assert ["reports/verify.md"] == kept["paths"]
    assert "--report-texts" not in "".join((CI / name).read_text() for name in ("github-actions.yml", "gitlab-ci.yml"))


def test_only_one_job_at_a_time_writes_a_ledger() -> None:
    assert yaml.safe_load((CI / "github-actions.yml").read_text())["concurrency"]
    assert yaml.safe_load((CI / "gitlab-ci.yml").read_text())[".migration"]["resource_group"]


def test_the_state_of_a_gate_is_named_by_a_variable_and_that_of_a_rehearsal_is_its_own() -> None:
    jobs = yaml.safe_load((CI / "github-actions.yml").read_text())["jobs"]
    assert "${{ vars.SPECTRON_MIGRATE_STATE }}" == jobs["gate"]["env"]["SPECTRON_MIGRATE_STATE"]
    assert "env" not in jobs["trial"]
    jobs = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    assert "$MIGRATION_STATE" == jobs["gate"]["variables"]["SPECTRON_MIGRATE_STATE"]
    assert "variables" not in jobs["trial"]
