"""The result of `replay --follow`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from spectron_migrate.errors import ExitCode
from spectron_migrate.records import Json


@dataclass(frozen=True, slots=True)
class FollowSummary:
    """What following did, over all rounds and drains."""

    migration: str
    rounds: int
    new: int
    changed: int
    deleted: int
    written: int
    late: int
    waiting: int
    """Too young to be sent when it ended."""
    remaining: int
    in_doubt: int
    undecidable: int
    refused: int
    as_of: str | None
    """Everything that Mem0 held at this time is in Spectron, except for what waits or remains."""
    ended: str
    """Why it ended."""
    exit_code: ExitCode

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        fields = asdict(self)
        del fields["exit_code"], fields["migration"]
        return fields
