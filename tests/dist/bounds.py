"""Install with the lowest and with the newest version of each dependency, and run a whole migration there.

Usage: python -m tests.dist.bounds [--python PYTHON] [--only lowest|newest]

Newest is what the registry has today, pre-releases left out. Where another package or a bound of ours holds one
back, it is named: nothing newer than what is printed was tried.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.dist.check import ROOT, run

_AT_LEAST = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?(>=|==)(?P<version>[^,; ]+)")


def lowest(*extras: str) -> dict[str, str]:
    """The lowest version that is allowed, of each dependency of the project and of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for wanted in [
        *project["dependencies"],
        *(each for name in extras for each in project["optional-dependencies"][name]),
    ]:
        match = _AT_LEAST.match(wanted)
        assert match, f"{wanted} says no lowest version"
        name, version = match["name"], match["version"]
        found[name] = max(found.get(name, "0"), version, key=_numbers)
    return found


def install_lowest(pip: list[str | Path], work: Path, *extras: str) -> None:
    """With every dependency at its lower bound."""
    versions = lowest(*extras)
    (work / "lowest.txt").write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    run([*pip, "install", "--constraint", "lowest.txt", _named(extras)], cwd=work)
    print("lowest:", ", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)


def install_newest(pip: list[str | Path], work: Path, *extras: str) -> None:
    """With everything as new as it goes together, and say which of ours is newer by itself."""
    run([*pip, "install", "--upgrade", "--upgrade-strategy", "eager", _named(extras)], cwd=work)
    listed = json.loads(run([*pip, "list", "--format", "json"], cwd=work))
    versions = {each["name"].lower(): each["version"] for each in listed}
    ours = list(lowest(*extras))
    asked = ["install", "--quiet", "--dry-run", "--no-deps", "--upgrade", "--report", "-", *ours]
    newer = json.loads(run([*pip, *asked], cwd=work))["install"]
    print("newest:", ", ".join(f"{name} {versions[name.lower()]}" for name in ours), flush=True)
    for each in newer:
        about = each["metadata"]
        print(
            f"held back: {about['name']} {versions[about['name'].lower()]}, while {about['version']} is out", flush=True
        )


def _named(extras: Sequence[str]) -> str:
    return f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)


def try_out(python: str, work: Path, install: Callable[..., None], *extras: str) -> None:
    """Install so, and run what such an installation can do."""
    work.mkdir()
    run([python, "-m", "venv", work / "venv"], cwd=work)
    pip: list[str | Path] = [work / "venv" / "bin" / "python", "-m", "pip"]
    install(pip, work, *extras)
    run([*pip, "check"], cwd=work)
    command = work / "venv" / "bin" / "spectron-migrate"
    assert "dual-verify" in run([command, "--help"], cwd=work)
    (work / "get_all.json").write_text('[{"id": "1", "memory": "Likes tea", "user_id": "anna"}]')
    told = json.loads(run([command, "replay", "--dump", "get_all.json", "--dry-run", "--json"], cwd=work))
    assert 1 == told["planned"]
    if "local" in extras:
        assert 0 == json.loads(run([command, "rehearse", "--json"], cwd=work))["exit_code"]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", choices=WAYS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for way in [asked.only] if asked.only else WAYS:
            for extras in ((), ("local", "pgvector")):
                began = time.perf_counter()
                try_out(asked.python, Path(name) / "-".join([way, *extras]), WAYS[way], *extras)
                told = f"with {' and '.join(extras)}, rehearsed" if extras else "alone, planned"
                print(f"{way} {told} in {time.perf_counter() - began:.0f} s", flush=True)


WAYS: dict[str, Callable[..., None]] = {"lowest": install_lowest, "newest": install_newest}


if __name__ == "__main__":
    main()
