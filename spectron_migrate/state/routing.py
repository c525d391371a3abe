"""`routing.json`: which system an application reads from. Applications evaluate it for every read, in any language.

The file is small, contains no ids in clear text, and can be evaluated in ten lines without this package.
docs/routing.md has the rule in Python and TypeScript, configs/routing.schema.json the schema. This module uses the
standard library alone, because applications import it.

The rule, for the id of a read (`user_id`, else `agent_id`, else `run_id`, else `app_id`):

1. `name` is the first 16 hexadecimal digits of SHA-256 over `<migration>:<id>` in UTF-8.
2. The read goes to Mem0 if `name` is in `behind`, if `behind` is null, or if `fresh_until` (seconds since 1970; null:
   never) has passed: not all of this user's memories are known to be in Spectron.
3. Otherwise, if `name` is in `pinned.spectron` or `pinned.mem0`, the read goes there.
4. Otherwise it goes to Spectron if `name`, as a number, modulo 10,000 is less than `percent` * 100; else to Mem0.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spectron_migrate.errors import MigrateError
from spectron_migrate.state.store import StateStore, store_at

FILE = "routing.json"
SCHEMA = 1
BUCKETS = 10_000
MOST_BEHIND = 5_000
"""If more users than this are behind, they are not listed: everybody counts as behind."""
MOST_BYTES = 4_000_000

Phase = Literal["mem0", "started", "shift", "closing", "complete"]
PHASES: tuple[Phase, ...] = ("mem0", "started", "shift", "closing", "complete")
CatchUp = Literal["follow", "outbox"]
Route = Literal["mem0", "spectron", "behind"]
"""Where a read goes. `behind` means Mem0 too, because not all of the user's memories are in Spectron yet."""


@dataclass(frozen=True, slots=True)
class Routing:
    """The contents of `routing.json`. The defaults, for a missing file, send every read to Mem0."""

    migration: str = ""
    phase: Phase = "mem0"
    percent: float = 0
    """Share of users to read from Spectron: 0 to 100, at most two decimals."""
    pinned_to_spectron: frozenset[str] = frozenset()
    """Names (`name_of`) of users that are read from Spectron whatever `percent` is."""
    pinned_to_mem0: frozenset[str] = frozenset()
    """Names of users that are read from Mem0 whatever `percent` is."""
    epoch: int = 0
    """Rises with every step of the cutover."""
    catch_up: CatchUp = "follow"
    fence: str | None = None
    """When the cutover began; RFC 3339."""
    as_of: str | None = None
    """Everything that Mem0 held at this time is in Spectron, except for users in `behind`; RFC 3339."""
    fresh_until: float | None = 0.0
    """Until when `as_of` and `behind` are valid, in seconds since 1970; None: forever."""
    behind: frozenset[str] | None = None
    """Names of users with changes that are not in Spectron yet; None: everybody."""
    mapping_digest: str = ""
    """After `complete`: digest of the mapping that the memories were written with; empty: not known."""
    rules_digest: str = ""
    """The same without the rows of its lookup tables."""
    updated_at: str = ""
    schema: int = SCHEMA

    def route(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        app_id: str | None = None,
        now: float | None = None,
    ) -> Route:
        """Where a read by these ids goes; `now` in seconds since 1970. Without any id it goes to Mem0."""
        if self.phase == "complete":
            return "spectron"
        subject = subject_of(user_id=user_id, agent_id=agent_id, run_id=run_id, app_id=app_id)
        if subject is None:
            return "mem0"
        name = name_of(self.migration, subject)
        if name in self.pinned_to_mem0 or (
            name not in self.pinned_to_spectron and bucket_of(name) >= self.percent * 100
        ):
            return "mem0"
        return "spectron" if self.is_caught_up(name, time.time() if now is None else now) else "behind"

    def is_caught_up(self, name: str, now: float) -> bool:
        """Whether all of a user's changes are known at `now` to be in Spectron."""
        if self.behind is None or name in self.behind:
            return False
        return self.fresh_until is None or now <= self.fresh_until

    def to_json(self) -> dict[str, Any]:
        """The form in the file."""
        fields = asdict(self)
        pinned = {"spectron": sorted(fields.pop("pinned_to_spectron")), "mem0": sorted(fields.pop("pinned_to_mem0"))}
        behind = None if self.behind is None else sorted(self.behind)
        return {**fields, "pinned": pinned, "behind": behind}

    @classmethod
    def from_json(cls, value: Any) -> Routing:
        """The inverse of `to_json`. Ignores unknown fields, raises ValueError for anything else."""
        try:
            pinned, behind = value["pinned"], value["behind"]
            routing = cls(
                migration=_text(value["migration"]),
                phase=_word(value["phase"], PHASES),
                percent=_number(value["percent"], most=100),
                pinned_to_spectron=frozenset(_names(pinned["spectron"])),
                pinned_to_mem0=frozenset(_names(pinned["mem0"])),
                epoch=int(_number(value["epoch"])),
                catch_up=_word(value["catch_up"], ("follow", "outbox")),
                fence=_text_or_none(value["fence"]),
                as_of=_text_or_none(value["as_of"]),
                fresh_until=None if value["fresh_until"] is None else _number(value["fresh_until"]),
                behind=None if behind is None else frozenset(_names(behind)),
                mapping_digest=_text(value.get("mapping_digest", "")),
                rules_digest=_text(value.get("rules_digest", "")),
                updated_at=_text(value["updated_at"]),
                schema=int(_number(value["schema"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a routing: {error}") from None
        if routing.schema != SCHEMA:
            raise ValueError(f"schema {routing.schema}, this version reads schema {SCHEMA}")
        return routing


def subject_of(
    *,
    user_id: str | None = None,
    agent_id: str | None = None,
    run_id: str | None = None,
    app_id: str | None = None,
) -> str | None:
    """The id that a read is about."""
    return next((each for each in (user_id, agent_id, run_id, app_id) if each is not None), None)


def name_of(migration: str, subject: str) -> str:
    """The name of an id in the file: 16 hexadecimal digits, different in every migration."""
    return hashlib.sha256(f"{migration}:{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bucket_of(name: str) -> int:
    """0 to 9,999. A user keeps the same bucket, so raising the percentage only adds users."""
    return int(name, 16) % BUCKETS


def read_routing(state: Path | StateStore) -> Routing | None:
    """The routing of a state; None if there is none. Raises ValueError if it cannot be read or is not a routing."""
    try:
        data = store_at(state).read(FILE)
    except MigrateError:  # a database that does not answer says nothing about the routing
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    return None if data is None else parse_routing(data)


def write_routing(state: Path | StateStore, routing: Routing) -> None:
    """Replace the routing of a state atomically and durably.

    In a directory it is readable by everybody who can enter it, because an application often runs as a different user
    than the migration; it contains no ids in clear text. Raises OSError.
    """
    data = (json.dumps(routing.to_json(), indent=1, allow_nan=False) + "\n").encode()
    store_at(state).write(FILE, data, durable=True, public=True, epoch=routing.epoch)


def parse_routing(data: bytes) -> Routing:
    """The routing in these bytes; raises ValueError."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES:,} bytes")
    try:
        return Routing.from_json(json.loads(data))
    except RecursionError:
        raise ValueError("not a routing: nested too deeply") from None


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("not a list of names")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any, most: float = 1e15) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise TypeError("not a number, or out of range")
    return value


def _word(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise TypeError(f"{str(value)[:40]!r} is none of {', '.join(known)}")
    return value
