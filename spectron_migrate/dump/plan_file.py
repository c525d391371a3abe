"""`plan.json` in a dump: what the shards that replay this dump together have agreed on."""

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
    """The number of shards, how lanes are assigned to them, the plan, and the first listing of scopes."""

    migration: str
    shards: int
    hash: str
    """Name of the function that assigns a lane to a shard; every shard must use the same."""
    mapping: str
    plan: str
    """Digest of the dump and the mapping."""
    listed_at: str
    scopes: tuple[str, ...]
    """The scopes that existed before any shard registered one: they belong to somebody else."""


def read_plan(dump: Path) -> SharedPlan | None:
    """The plan that the shards of this dump agreed on; None before the first one wrote it.

    Raises InputError if the file is not a plan.
    """
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
            f"{path} is not a plan of this version", hint="it is written by replay --shard, never by hand"
        ) from error


def create_plan(dump: Path, plan: SharedPlan) -> SharedPlan:
    """Write the plan unless another shard already has; returns the plan in the file."""
    if create_file(dump / PLAN, _encoded(plan)):
        return plan
    existing = read_plan(dump)
    assert existing is not None  # noqa: S101 - it is never removed
    return existing


def replace_plan(dump: Path, plan: SharedPlan) -> None:
    """Write the plan of a newer export; the caller makes sure that no other shard runs."""
    replace_file(dump / PLAN, _encoded(plan), durable=True)


def begin_shard(dump: Path, shard: str, made_at: str) -> bool:
    """Record which ledger a shard began with; False if it began with another one, which was lost."""
    name = f"plan.shard-{shard.replace('/', '-of-')}"
    return create_file(dump / name, made_at.encode()) or (dump / name).read_text() == made_at


def _encoded(plan: SharedPlan) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(plan)}, indent=1).encode()
