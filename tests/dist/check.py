"""Build wheel and sdist, install each into empty environments, and run a whole migration there.

Usage: python -m tests.dist.check [--python PYTHON …] [--quick]

Without `--python`, with every Python from 3.11 on that this machine has. `--quick` leaves the rehearsal out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectron_migrate import __version__

ROOT = Path(__file__).parents[2]
SUPPORTED = [(3, 11), (3, 12), (3, 13), (3, 14)]


def run(words: Sequence[str | Path], *, cwd: Path, **env: str) -> str:
    """Run it, with nothing of this environment's that could lend a hand; raises SystemExit where it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ended = subprocess.run(list(map(str, words)), cwd=cwd, env={**kept, **env}, capture_output=True, text=True)
    if ended.returncode:
        told = " ".join(map(str, words))
        raise SystemExit(f"{told}\nexit code {ended.returncode}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    return ended.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel and sdist, and the wheel that the sdist gives is the same one."""
    run([sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", folder, ROOT], cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    (source,) = (folder / "unpacked").iterdir()
    run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "again", source], cwd=folder)
    (again,) = (folder / "again").glob("*.whl")
    check_contents(names_in(wheel), names_in(again), inside)
    return wheel, sdist


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def check_contents(wheel: set[str], again: set[str], sdist: set[str]) -> None:
    """Nothing is missing and nothing came along."""
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "spectron_migrate").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = f"spectron_migrate-{__version__}.dist-info/"
    problems = [f"the wheel lacks {name}" for name in sorted(package - wheel)]
    problems += [f"the wheel has {name}" for name in sorted(wheel - package) if not name.startswith(about)]
    problems += [f"the sdist's wheel differs in {name}" for name in sorted(wheel ^ again)]
    wanted = (
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "pyproject.toml",
        "tests/conftest.py",
        "docs/runbook.md",
    )
    problems += [f"the sdist lacks {name}" for name in wanted if name not in sdist]
    if f"{about}licenses/LICENSE" not in wheel:
        problems.append("the wheel lacks the licence")
    if problems:
        raise SystemExit("\n".join(problems))


def try_out(python: str, wheel: Path, folder: Path, *, quick: bool) -> None:
    """Install into an empty environment and run it, from a folder that has nothing of the project."""
    venv, work = folder / "venv", folder / "work"
    work.mkdir(parents=True)
    run([python, "-m", "venv", venv], cwd=work)
    pip, command = [venv / "bin" / "python", "-m", "pip", "--quiet"], venv / "bin" / "spectron-migrate"
    run([*pip, "install", wheel], cwd=work)
    run([*pip, "check"], cwd=work)
    assert f"spectron-migrate {__version__}\n" == run([command, "--version"], cwd=work)
    assert "dual-verify" in run([command, "--help"], cwd=work)
    rows = [{"id": "1", "memory": "Likes tea", "user_id": "anna", "created_at": "2025-01-01T00:00:00Z"}]
    (work / "get_all.json").write_text(json.dumps(rows))
    told = json.loads(run([command, "replay", "--dump", "get_all.json", "--dry-run", "--json"], cwd=work))
    assert 1 == told["planned"]
    run([venv / "bin" / "python", "-c", "from spectron_migrate import SpectronClient, MemoryAdapter"], cwd=work)
    if not quick:
        run([*pip, "install", f"{wheel}[local]"], cwd=work)
        rehearsed = json.loads(run([command, "rehearse", "--json"], cwd=work))
        assert 0 == rehearsed["exit_code"]


def pythons() -> Iterator[str]:
    """Every supported Python of this machine, each version once."""
    for major, minor in SUPPORTED:
        places = [
            f"python{major}.{minor}",
            *map(str, Path.home().glob(f".pyenv/versions/{major}.{minor}.*/bin/python")),
        ]
        for place in places:
            try:
                found = subprocess.run([place, "-c", "import venv, ensurepip"], capture_output=True)
            except OSError:
                continue
            if found.returncode == 0:
                yield place
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        print(f"{wheel.name} ({wheel.stat().st_size // 1024} kB), {sdist.name} ({sdist.stat().st_size // 1024} kB)")
        for number, python in enumerate(asked.python or pythons()):
            began = time.perf_counter()
            version = run([python, "--version"], cwd=folder).strip()
            try_out(python, wheel, folder / str(number), quick=asked.quick)
            done = "run" if asked.quick else "rehearsed"
            print(f"{version}: installed and {done} in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
