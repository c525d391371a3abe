"""The console blocks of a page: its commands, and the output that it shows for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"\s+# .*$")


@dataclass(frozen=True)
class Shown:
    """One command and its output; in a line of output `…` stands for anything."""

    command: str
    answer: tuple[str, ...]

    def missing_from(self, output: str) -> list[str]:
        """The lines that `output` does not contain in this order; line breaks do not matter."""
        rest, missing = " ".join(output.split()), []
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
