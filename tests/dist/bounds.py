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
from collections.abc import Iterator
from pathlib import Path

from tests.dist.check import ROOT, run

_AT_LEAST = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?(>=|==)(?P<version>[^,; ]+)")


def lowest() -> Iterator[str]:
    """A constraint a dependency: the lowest version that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *(each for name in extras for each in extras[name])]:
        found = _AT_LEAST.match(wanted)
        assert found, f"{wanted} says no lowest version"
        yield f"{found['name']}=={found['version']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "lowest.txt").write_text("\n".join(lowest()) + "\n")
        print(" ".join(lowest()), flush=True)
        began = time.perf_counter()
        run([python, "-m", "venv", work / "venv"], cwd=work)
        pip = [work / "venv" / "bin" / "python", "-m", "pip", "--quiet"]
        run([*pip, "install", "--constraint", "lowest.txt", f"{ROOT}[local]"], cwd=work)
        run([*pip, "check"], cwd=work)
        command = work / "venv" / "bin" / "spectron-migrate"
        assert "dual-verify" in run([command, "--help"], cwd=work)
        told = json.loads(run([command, "rehearse", "--json"], cwd=work))
        assert 0 == told["exit_code"]
        print(f"{run([python, '--version'], cwd=work).strip()}: rehearsed in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
