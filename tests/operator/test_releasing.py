"""The release job and the issue forms name what exists, and a tag that does not fit is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.dist.version import differences
from tests.operator import help_page

ROOT = Path(__file__).parents[2]
JOB = ROOT / ".github" / "workflows" / "release.yml"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_every_target_that_a_release_runs_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = JOB.read_text(encoding="utf-8"), (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    lines = [line for page in pages for line in re.findall(r"(?:\$ |run: |`)make ([a-z -]+)", page)]
    named = {name for line in lines for name in line.split()}
    assert {"test", "dist-test", "image-test", "compat"} <= named
    assert set() == named - targets


def test_every_module_and_file_that_the_release_job_runs_exists() -> None:
    [job] = yaml.safe_load(JOB.read_text(encoding="utf-8"))["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    modules = [found for each in commands for found in re.findall(r"-m (tests[\w.]+)", each)]
    assert modules
    assert [] == [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()]
    assert (ROOT / ".ci" / "run").exists()


@pytest.mark.parametrize(("tag", "wrong"), [("v1.2.3", 0), ("1.2.3", 0), ("v1.2.4", 2)])
def test_a_tag_is_the_version_of_the_package_and_of_the_changelog(tmp_path: Path, tag: str, wrong: int) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\n\n- a change\n\n## 1.2.2\n")
    assert wrong == len(differences(tag, tmp_path))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_issue_form_names_commands_that_exist(form: Path) -> None:
    text = form.read_text(encoding="utf-8")
    yaml.safe_load(text)
    known = {words[0] for words in help_page.commands() if words}
    assert set(re.findall(r"`spectron-migrate ([a-z-]+)", text)) <= known
