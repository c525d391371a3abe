"""What `--json` prints, held to the published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

FILE = Path(__file__).parents[2] / "docs" / "output.schema.json"


def closed(schema: Any) -> Any:
    """The schema as this version of the program keeps it: no field that it does not name.

    Published it is open below, because a later version may add fields; here each one must have been written down.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def _validator() -> jsonschema_rs.Validator:
    published = json.loads(FILE.read_text(encoding="utf-8"))
    jsonschema_rs.meta.validate(published)
    made = closed(published)
    # These are laid over others, so the whole is closed and not each of them.
    for name in ("init", "export", "replayed", "followed", "dual-verify", "cutover", "status", "doctor", "rehearse"):
        del made["$defs"][name]["additionalProperties"]
    for name in ("local", "erase", "state", "previewed", "explained_memory", "explained_user"):
        del made["$defs"][name]["additionalProperties"]
    del made["additionalProperties"]
    made["unevaluatedProperties"] = False
    for name, step in made["$defs"]["rehearse"]["properties"]["steps"]["properties"].items():
        made["$defs"]["rehearse"]["properties"]["steps"]["properties"][name] = {**step, "unevaluatedProperties": False}
    return jsonschema_rs.validator_for(made)


VALIDATOR = _validator()


def check(told: dict[str, Any]) -> dict[str, Any]:
    """The object itself; raises jsonschema_rs.ValidationError where it is not as published."""
    VALIDATOR.validate(told)
    return told
