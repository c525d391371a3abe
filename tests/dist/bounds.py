"""Install with the lowest version of each dependency that pyproject.toml allows, and run a whole migration there.

Usage: python -m tests.dist.bounds [--python PYTHON]

The newest of each is what an installation takes by itself: `tests.dist.check` tries that.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import tomllib
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


def try_out(python: str, work: Path, *extras: str) -> None:
    """Install so, and run what such an installation can do."""
    work.mkdir()
    versions = lowest(*extras)
    (work / "lowest.txt").write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    run([python, "-m", "venv", work / "venv"], cwd=work)
    pip = [work / "venv" / "bin" / "python", "-m", "pip"]
    named = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    run([*pip, "install", "--constraint", "lowest.txt", named], cwd=work)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as name:
        for extras in ((), ("local", "pgvector")):
            began = time.perf_counter()
            try_out(python, Path(name) / "-".join(["lowest", *extras]), *extras)
            told = f"with {' and '.join(extras)}, rehearsed" if extras else "alone, planned"
            print(f"{told} in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
