"""What a page shows at a prompt: its commands, and the lines that it says they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"\s+# .*$")


@dataclass(frozen=True)
class Shown:
    """One command of a page; in a line of its answer `…` stands for anything."""

    command: str
    answer: tuple[str, ...]

    def lacks(self, said: str) -> list[str]:
        """The lines that did not come, in their order; how a terminal breaks lines does not matter."""
        rest, missing = " ".join(said.split()), []
        for line in self.answer:
            wanted = r".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
            found = re.search(wanted, rest)
            if found is None:
                missing.append(line)
            else:
                rest = rest[found.end() :]
        return missing


def shown(page: str) -> list[Shown]:
    """Every command of the page's console blocks, in their order."""
    found: list[Shown] = []
    for block in _BLOCK.findall(page):
        for prompt in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *answer = prompt.rstrip().splitlines()
            found.append(Shown(_COMMENT.sub("", command), tuple(answer)))
    return found
