"""`plan.json` in a dump: what the shards that replay it together have agreed on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import create_file, replace_file

PLAN = "plan.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """One number of shards, one way to share out lanes, one plan, one first listing of scopes."""

    migration: str
    shards: int
    hash: str
    """How a lane finds its shard, in words that every shard compares."""
    mapping: str
    plan: str
    """Digest of dump and mapping."""
    listed_at: str
    scopes: tuple[str, ...]
    """The scopes that were there before any shard registered one: those are somebody else's."""


def read_plan(dump: Path) -> SharedPlan | None:
    """What the dump's shards agreed on; None before the first. Raises InputError for a file that is no plan."""
    path = dump / PLAN
    try:
        value = json.loads(path.read_bytes())
        if value.pop("format") != FORMAT:
            raise ValueError(FORMAT)
        return SharedPlan(**{**value, "scopes": tuple(value["scopes"])})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no plan of this version", hint="it is written by replay --shard, never by hand"
        ) from error


def create_plan(dump: Path, plan: SharedPlan) -> SharedPlan:
    """Write the plan unless another shard was faster; returns the one that stands."""
    if create_file(dump / PLAN, _encoded(plan)):
        return plan
    existing = read_plan(dump)
    assert existing is not None  # noqa: S101 - it is never removed
    return existing


def replace_plan(dump: Path, plan: SharedPlan) -> None:
    """Write the plan of a newer export; the caller keeps every other shard from running."""
    replace_file(dump / PLAN, _encoded(plan), durable=True)


def begin_shard(dump: Path, shard: str, made_at: str) -> bool:
    """Note which ledger a shard began with; False where it began with another one, which is lost then."""
    name = f"plan.shard-{shard.replace('/', '-of-')}"
    return create_file(dump / name, made_at.encode()) or (dump / name).read_text() == made_at


def _encoded(plan: SharedPlan) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(plan)}, indent=1).encode()
