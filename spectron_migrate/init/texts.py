"""The two settings files as `init` writes them: what was found, and comments for the rest (pure)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spectron_migrate.mapping.segments import is_plain
from spectron_migrate.records import Memory

TENANTS_SHARE = 0.9
"""From this share of user ids on, a separator in them looks like a tenant before the user."""

_NO_MEM0 = """\
# mem0:                               # no Mem0 was found here; one of:
#   oss: {config: mem0.yaml}          # JSON or YAML as for Memory.from_config; `default` = what Memory() opens
#   platform: {api_key: "${MEM0_API_KEY}"}
#   server: {base_url: "https://mem0.internal:8888", api_key: "${MEM0_API_KEY}"}
#   files: ["get_all_*.json"]
"""
_SETTINGS = """\
# Where things are and how fast. What changes *what is written* is in mapping.yaml.
# Options beat the environment, the environment beats this file; paths are relative to it. Numbers and times
# are those that are used without this file. No key and no password belongs in here.
version: 1
%(mem0)sspectron:
  endpoint: "${%(endpoint)s}"         # https, unless it is this machine
  context: "${%(context)s}"           # the context's id, which is not its display name
  api_key: "${%(key)s}"               # or {file: /run/secrets/spectron}; never the key itself
  timeout: 120s                       # of one write: with extraction a language model works on it
mapping: mapping.yaml
dump: dump                            # what export writes
state: .spectron-migrate              # the ledger; on a local disk, and not in git
replay:
  max_in_flight: 64                   # the rate goes down by itself where the service says so
  max_refused: 0                      # more refused memories than this: exit code 3
verify:
  top_k: 5
  margin: 0.02                        # how much lower success may be, as a share
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
# The application reads with the same file, so a scope is never guessed twice: settle it before the first replay.
"""
_MAPPING_TAIL = """\
session: {by: run_id, size: 100}      # a Mem0 run becomes sessions of at most so many memories; or `by: none`
infer: full                           # full: facts are made of each text by a language model | none: the text alone
category: knowledge                   # identity | knowledge; what Spectron calls `context` expires after 7 days
labels: {source: mem0}
unmapped: refuse                      # or skip: then they are counted, and named
"""
_ORG = """\
# Scopes of several organisations in one context begin with them: scope: {org: acme, user: "{user_id}"}
"""


@dataclass
class Owners:
    """Whose memories were seen: which ids stand together, and what the ids look like."""

    rows: int = 0
    all: bool = True
    """False where only the first rows were looked at."""
    together: Counter[tuple[str, ...]] = field(default_factory=Counter)
    escaped: int = 0
    """Memories with an id that is no legal segment of a scope."""
    tenants: Counter[str] = field(default_factory=Counter)
    """By separator: memories whose user id has it exactly once."""

    def add(self, memory: Memory) -> None:
        """One memory; a run beside other ids is a session and no scope."""
        self.rows += 1
        ids = memory.entity_ids
        scoped = {name: value for name, value in ids.items() if name != "run_id" or len(ids) == 1}
        self.together[tuple(scoped)] += 1
        self.escaped += any(not is_plain(value) for value in scoped.values())
        user = ids.get("user_id", "")
        for separator in (":", "/"):
            self.tenants[separator] += user.count(separator) == 1 and user[0] != separator != user[-1]

    def of_rule(self, ids: tuple[str, ...]) -> int:
        """Memories that the built-in rule for these ids takes: the first that matches wins."""
        return sum(n for names, n in self.together.items() if _rule_of(names) == ids)


def settings_text(mem0: Mapping[str, Any] | None, why: str, variables: tuple[str, str, str]) -> str:
    """`spectron-migrate.yaml` for a Mem0 that was found (or not), and the names of Spectron's variables."""
    endpoint, context, key = variables
    section = f"mem0: {_yaml(mem0)}  # {why}\n" if mem0 is not None else _NO_MEM0
    return _aligned(_SETTINGS % {"mem0": section, "endpoint": endpoint, "context": context, "key": key})


def mapping_text(owners: Owners | None) -> str:
    """`mapping.yaml`: the built-in rules, with how many memories each takes."""
    lines = [_MAPPING_HEAD, *_seen(owners), _ORG, "version: 1\nrules:\n"]
    for ids, when, scope in _RULES:
        n = owners.of_rule(ids) if owners else None
        told = "" if n is None else f"    # seen: {n}"
        lines.append(f"  - when: {when}{told}\n    scope: {scope}\n")
    return "".join([*lines, _MAPPING_TAIL])


def _aligned(text: str) -> str:
    """Comments behind values in one column, as far as the values let them be."""
    lines = []
    for line in text.splitlines():
        value, mark, comment = line.partition("  # ")
        lines.append(f"{value.rstrip():<36}{mark}{comment}" if mark and value.strip() else line)
    return "\n".join(lines) + "\n"


def _seen(owners: Owners | None) -> list[str]:
    if owners is None:
        return []
    first = "" if owners.all else "the first "
    told = [f"# Looked at {first}{owners.rows} memories.\n"]
    if owners.escaped:
        told.append(
            f"# {owners.escaped} have an id that no scope may have as it is: it is escaped, reversibly (`x--…`).\n"
        )
    nobody = owners.together[()]
    if nobody:
        told.append(f"# {nobody} belong to nobody: no rule takes them, and a replay refuses until one does.\n")
    for separator, n in owners.tenants.items():
        if n and n >= TENANTS_SHARE * owners.rows:
            told.append(
                f"# {n} user ids look like tenant{separator}user. To give each tenant a scope of its own, first:\n"
                f'#   - when: {{user_id: "{{tenant}}{separator}{{name}}"}}\n'
                '#     scope: {org: "{tenant}", user: "{user_id}"}\n'
            )
    if owners.of_rule(("agent_id",)) and owners.of_rule(("user_id", "agent_id")):
        told.append(
            "# Some agents' memories belong to users too: a search by agent_id alone cannot be answered then. An\n"
            "# application that asks so needs agents first (see the mapping cookbook: agent-first).\n"
        )
    return told


def _rule_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return next((ids for ids, _, _ in _RULES if set(ids) <= set(names)), ())


def _yaml(value: Any) -> str:
    """On one line, as JSON, which is YAML once its invisible letters are spelled as YAML does."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)
