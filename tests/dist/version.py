"""Compare a tag with the version of the package and with the newest entry of the changelog.

Usage: python -m tests.dist.version v1.2.3
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def differences(tag: str, root: Path = ROOT) -> list[str]:
    """What does not name the version of the tag, one sentence each."""
    version = tag.removeprefix("v")
    package = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    entries = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    newest = entries[0] if entries else "nothing"
    found = {"pyproject.toml": package, "the newest entry of CHANGELOG.md": newest}
    return [f"{where} names {named}, the tag {version}" for where, named in found.items() if named != version]


if __name__ == "__main__":
    wrong = differences(sys.argv[1])
    if wrong:
        raise SystemExit("\n".join(wrong))
