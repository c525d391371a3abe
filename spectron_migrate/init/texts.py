"""The text of the two settings files: what was found, and comments for the rest. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spectron_migrate.mapping.segments import is_plain
from spectron_migrate.records import Memory, counted

TENANT_SHARE = 0.9
"""If at least this share of user ids has a separator, the part before it looks like a tenant."""

_NO_MEM0 = """\
# mem0:                               # no Mem0 was found here; one of:
#   oss: {config: mem0.yaml}          # JSON or YAML as for Memory.from_config; `default` = what Memory() opens
#   platform: {api_key: "${MEM0_API_KEY}"}
#   server: {base_url: "https://mem0.internal:8888", api_key: "${MEM0_API_KEY}"}
#   files: ["get_all_*.json"]
"""
_SETTINGS = """\
# Where things are and how fast. What changes *what is written* is in mapping.yaml.
# Options override the environment, which overrides this file. Paths are relative to this file. Numbers and times
# are the defaults. Keys and passwords do not belong in here.
version: 1
%(mem0)sspectron:
  endpoint: "${%(endpoint)s}"         # https, unless it is this machine
  context: "${%(context)s}"           # the context's id, which is not its display name
  api_key: "${%(key)s}"               # or {file: /run/secrets/spectron}; never the key itself
  timeout: 120s                       # of one write: with extraction it waits for a language model
mapping: mapping.yaml
dump: dump                            # what export writes
state: .spectron-migrate              # the ledger; on a local disk, and not in git
replay:
  max_in_flight: 64                   # reduced automatically when the service asks for it
  max_refused: 0                      # with more refused memories than this: exit code 3
verify:
  top_k: 5
  margin: 0.02                        # how much lower the success rate may be
  reports: [reports/verify.json, reports/verify.html]
"""
_RULES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("user_id", "agent_id"), '{user_id: "*", agent_id: "*"}', '{user: "{user_id}", agent: "{agent_id}"}'),
    (("user_id",), '{user_id: "*"}', '{user: "{user_id}"}'),
    (("agent_id",), '{agent_id: "*"}', '{agent: "{agent_id}"}'),
    (("app_id",), '{app_id: "*"}', '{app: "{app_id}"}'),
    (("run_id",), '{run_id: "*"}', '{run: "{run_id}"}'),
)
_MAPPING_HEAD = """\
# Where each Mem0 memory is written in Spectron, and how. The first rule that matches wins.
# The application reads with the same file, so both always agree on the scopes: finish it before the first replay.
"""
_MAPPING_TAIL = """\
session: {by: run_id, size: 100}      # a Mem0 run becomes sessions of at most so many memories; or `by: none`
infer: full                           # full: a language model extracts facts from the text | none: text only
category: knowledge                   # identity | knowledge; what Spectron calls `context` expires after 7 days
labels: {source: mem0, mem0_id: "{id}"}  # tells later which memory made what; at most 3; {metadata.x} works
text_at: auto                         # when a text came to be: auto | history | updated_at | created_at
unmapped: refuse                      # or skip: then they are counted and listed
"""
_ORG = """\
# If one context serves several organisations, begin the scopes with them: scope: {org: acme, user: "{user_id}"}
"""


@dataclass
class Owners:
    """The owners of the memories: which kinds of ids occur together, and how the ids look."""

    rows: int = 0
    all: bool = True
    """False if only the first rows were read."""
    together: Counter[tuple[str, ...]] = field(default_factory=Counter)
    escaped: int = 0
    """Memories with an id that is not a legal segment of a scope."""
    tenants: Counter[str] = field(default_factory=Counter)
    """By separator: memories whose user id contains it exactly once."""

    def add(self, memory: Memory) -> None:
        """Count one memory. A run beside other ids becomes a session, not a scope."""
        self.rows += 1
        ids = memory.entity_ids
        scoped = {name: value for name, value in ids.items() if name != "run_id" or len(ids) == 1}
        self.together[tuple(scoped)] += 1
        self.escaped += any(not is_plain(value) for value in scoped.values())
        user = ids.get("user_id", "")
        for separator in (":", "/"):
            self.tenants[separator] += user.count(separator) == 1 and user[0] != separator != user[-1]

    def count_for_rule(self, ids: tuple[str, ...]) -> int:
        """Number of memories to which the built-in rule for these ids applies: the first match wins."""
        return sum(n for names, n in self.together.items() if _rule_of(names) == ids)


def settings_text(mem0: Mapping[str, Any] | None, why: str, variables: tuple[str, str, str]) -> str:
    """The text of `spectron-migrate.yaml` for a Mem0, or for none, and the names of Spectron's variables."""
    endpoint, context, key = variables
    section = f"mem0: {_yaml(mem0)}  # {why}\n" if mem0 is not None else _NO_MEM0
    return _align_comments(_SETTINGS % {"mem0": section, "endpoint": endpoint, "context": context, "key": key})


def mapping_text(owners: Owners | None) -> str:
    """The text of `mapping.yaml`: the built-in rules, with the number of memories of each."""
    lines = [_MAPPING_HEAD, *_comments_on(owners), _ORG, "version: 1\nrules:\n"]
    for ids, when, scope in _RULES:
        n = owners.count_for_rule(ids) if owners else None
        comment = "" if n is None else f"    # seen: {n}"
        lines.append(f"  - when: {when}{comment}\n    scope: {scope}\n")
    return "".join([*lines, _MAPPING_TAIL])


def _align_comments(text: str) -> str:
    """Align the comments behind values in one column, as far as possible."""
    lines = []
    for line in text.splitlines():
        value, mark, comment = line.partition("  # ")
        lines.append(f"{value.rstrip():<36}{mark}{comment}" if mark and value.strip() else line)
    return "\n".join(lines) + "\n"


def _comments_on(owners: Owners | None) -> list[str]:
    if owners is None:
        return []
    first = "" if owners.all else "the first "
    lines = [f"# Read {first}{counted(owners.rows, 'memory')}.\n"]
    if owners.escaped:
        lines.append(
            f"# {owners.escaped} have an id that is not legal in a scope: it is escaped, reversibly (`x--…`).\n"
        )
    without_owner = owners.together[()]
    if without_owner:
        lines.append(
            f"# {without_owner} have no owner: no rule applies to them, and a replay refuses until one does.\n"
        )
    for separator, n in owners.tenants.items():
        if n and n >= TENANT_SHARE * owners.rows:
            lines.append(
                f"# {n} user ids look like tenant{separator}user. To give each tenant a scope of its own, first:\n"
                f'#   - when: {{user_id: "{{tenant}}{separator}{{name}}"}}\n'
                '#     scope: {org: "{tenant}", user: "{user_id}"}\n'
            )
    if owners.count_for_rule(("agent_id",)) and owners.count_for_rule(("user_id", "agent_id")):
        lines.append(
            "# Some memories of agents belong to users too, so a search by agent_id alone cannot be served. An\n"
            "# application that searches this way needs agents first (see the mapping cookbook: agent-first).\n"
        )
    return lines


def _rule_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return next((ids for ids, _, _ in _RULES if set(ids) <= set(names)), ())


def _yaml(value: Any) -> str:
    """A value on one line: JSON, which is YAML once its unprintable characters are escaped as in YAML."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)
