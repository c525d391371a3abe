"""What rules take, where they write it, and what a mapping file can say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.mapping import DEFAULT_MAPPING, ScopeMapping, Unmapped, load_mapping, parse_mapping
from spectron_migrate.records import Memory, Placement, Skipped


def of(rules: str, rest: str = "", folder: Path = Path()) -> ScopeMapping:
    """A mapping of these rules."""
    return parse_mapping(f"version: 1\n{rest}\nrules:\n{rules}", folder)


def memory(**fields: Any) -> Memory:
    """A memory with these fields."""
    return Memory(id="m1", memory="likes tea", **fields)


def placed(mapping: ScopeMapping, **fields: Any) -> Placement:
    """Where a memory with these fields is written."""
    found = mapping.map_memory(memory(**fields))
    assert isinstance(found, Placement), found
    return found


def takes(when: str, **fields: Any) -> bool:
    """Whether a rule with this condition takes a memory with these fields."""
    found = of(f"  - {{when: {when}, scope: {{org: acme}}}}").map_memory(memory(**fields))
    return isinstance(found, Placement)


@pytest.mark.parametrize(
    ("fields", "path", "lane"),
    [
        ({"user_id": "Al"}, "user/x---41l", "user/x---41l"),
        ({"user_id": "al", "agent_id": "bot"}, "user/al/agent/bot", "user/al"),
        ({"agent_id": "bot", "app_id": "web"}, "agent/bot", "agent/bot"),
        ({"app_id": "web", "run_id": "r"}, "app/web", "app/web"),
        ({"run_id": "r"}, "run/r", "run/r"),
    ],
)
def test_the_default_writes_under_the_first_of_user_agent_app_and_run(
    fields: dict[str, str], path: str, lane: str
) -> None:
    """Order is kept inside a user, whatever the agent."""
    found = placed(load_mapping(None), **fields)

    assert ((path,),) == found.selector
    assert lane == found.lane
    assert ("full", "knowledge", ("source=mem0",), -1) == (found.infer, found.category, found.labels, found.rule)
    assert fields.get("run_id") == found.run


def test_the_default_refuses_only_what_has_no_id() -> None:
    """Nothing is written while there is one; the step names them all."""
    assert Unmapped("m1", "no rule takes it") == load_mapping(None).map_memory(memory(actor_id="x"))


@pytest.mark.parametrize("state", ["expired", "deleted", "archived", "replaced"])
def test_what_mem0_would_not_show_is_skipped_unless_a_rule_names_its_state(state: Any) -> None:
    """Even where an earlier rule would take an active memory like it."""
    rules = """
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
  - {when: {user_id: "*", STATE: true}, scope: {old: "{user_id}"}}
"""
    hidden = memory(user_id="al", state=state)

    assert Skipped("m1", state) == load_mapping(None).map_memory(hidden)
    assert Skipped("m1", state) == of(rules.replace("STATE: true", "STATE: false".replace("STATE", state))).map_memory(
        hidden
    )
    assert (("old/al",),) == placed(of(rules.replace("STATE", state)), user_id="al", state=state).selector
    assert (("user/al",),) == placed(of(rules.replace("STATE", state)), user_id="al").selector


@pytest.mark.parametrize(
    ("when", "metadata", "expected"),
    [
        ('{metadata.x: "*"}', {"x": ""}, True),
        ('{metadata.x: "*"}', {"x": None}, False),
        ('{metadata.x: "*"}', {"x": {}}, True),
        ("{metadata.x: kb}", {"x": "kb"}, True),
        ("{metadata.x: kb}", {"x": "KB"}, False),
        ("{metadata.x: kb}", {"x": ["web", "kb"]}, True),
        ('{metadata.x: "kb-*"}', {"x": "kb-1"}, True),
        ('{metadata.x: "kb-*"}', {"x": "a kb-1"}, False),
        ('{metadata.x: "kb-*"}', {"x": "kb-\n"}, True),
        ('{metadata.x: "k?"}', {"x": "kb"}, True),
        ('{metadata.x: "[k]*"}', {"x": "kb"}, False),
        ('{metadata.x: "[k]*"}', {"x": "[k]b"}, True),
        ("{metadata.x: 3}", {"x": 3}, True),
        ("{metadata.x: 3}", {"x": 3.0}, True),
        ("{metadata.x: 3}", {"x": "3"}, True),
        ("{metadata.x: 3}", {"x": True}, False),
        ("{metadata.x: 1}", {"x": True}, False),
        ('{metadata.x: "1.10"}', {"x": 1.1}, False),
        ('{metadata.x: ">= 3"}', {"x": 3}, True),
        ('{metadata.x: ">= 3"}', {"x": "10"}, True),
        ('{metadata.x: "> 3"}', {"x": 3}, False),
        ('{metadata.x: "<3"}', {"x": -1.5}, True),
        ('{metadata.x: "<= 3"}', {"x": "three"}, False),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2024-12-31T23:59:59Z"}, True),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2025-01-01T00:30:00+01:00"}, True),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2025-01-01"}, False),
        ('{metadata.x: "< 2025-01-01"}', {"x": 7}, False),
        ("{metadata.x: true}", {"x": True}, True),
        ("{metadata.x: true}", {"x": "true"}, False),
        ("{metadata.x: true}", {"x": 1}, False),
        ("{metadata.x: false}", {"x": False}, True),
        ("{metadata.x: false}", {}, False),
        ("{metadata.a.b: kb}", {"a": {"b": "kb"}}, True),
        ("{metadata.a.b: kb}", {"a": "kb"}, False),
        ('{metadata.x: "{a}:{b}"}', {"x": "p:q"}, True),
        ('{metadata.x: "{a}:{b}"}', {"x": "pq"}, False),
        ("{}", {}, True),
    ],
)
def test_a_condition_on_metadata(when: str, metadata: dict[str, Any], expected: bool) -> None:
    """Present, exact, glob, comparison, truth value, capture; a number also as text."""
    assert expected == takes(when, metadata=metadata)


def test_a_condition_on_a_field_of_mem0() -> None:
    """Ids, role, categories, times."""
    assert takes('{user_id: "u-*"}', user_id="u-1")
    assert not takes('{user_id: "*"}')
    assert takes("{user_id: 42}", user_id="42")
    assert not takes("{user_id: 42}", user_id="042")
    assert takes("{role: user}", role="user")
    assert takes("{categories: food}", categories=("travel", "food"))
    assert takes('{created_at: "< 2025-01-01"}', created_at="2024-06-01T00:00:00.000000Z")
    assert not takes('{text_at: "< 2025-01-01"}')


def test_the_first_rule_that_matches_wins_with_its_own_options() -> None:
    """A rule's labels are put over those of the file, key by key."""
    mapping = of(
        """
  - {when: {metadata.k: kb}, scope: {org: acme}, category: identity, infer: none, labels: {kind: kb, source: x}}
  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}
""",
        "labels: {source: mem0, env: prod}\ncategory: context",
    )
    first = placed(mapping, user_id="al", metadata={"k": "kb"})
    second = placed(mapping, user_id="al")

    assert (0, "identity", "none") == (first.rule, first.category, first.infer)
    assert ("source=x", "env=prod", "kind=kb") == first.labels
    assert (1, "context", "full") == (second.rule, second.category, second.infer)
    assert ("source=mem0", "env=prod") == second.labels


def test_a_rule_can_skip_by_name() -> None:
    """Counted under that name."""
    mapping = of("  - {name: small talk, when: {metadata.kind: chat}, skip: true}\n  - {when: {}, skip: true}")

    assert Skipped("m1", "rule small talk") == mapping.map_memory(memory(metadata={"kind": "chat"}))
    assert Skipped("m1", "rule 2") == mapping.map_memory(memory())


def test_unmapped_memories_are_refused_or_skipped_with_the_reason(tmp_path: Path) -> None:
    """No rule, no row in the table, a field that is no single text."""
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,acme\n", encoding="utf-8")
    rules = """
  - {when: {metadata.team: "*"}, scope: {team: "{metadata.team}"}}
  - when: {user_id: "*"}
    lookup: {file: orgs.csv, key: user_id, value: org}
    scope: {org: "{org}", user: "{user_id}"}
"""
    strict = of(rules, folder=tmp_path)
    lenient = of(rules, "unmapped: skip", folder=tmp_path)

    assert Unmapped("m1", "rule 2 (mapping.yaml:6): orgs.csv has no row for its user_id") == strict.map_memory(
        memory(user_id="bo")
    )
    assert Unmapped(
        "m1", "rule 1 (mapping.yaml:5): its metadata.team is not a single text or number"
    ) == strict.map_memory(memory(metadata={"team": ["a"]}))
    assert Skipped("m1", "unmapped: no rule takes it") == lenient.map_memory(memory())


def test_runs_become_sessions_unless_the_mapping_says_none() -> None:
    """Memories without a run share theirs."""
    rule = '  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}'

    by_run = of(rule, "session: {size: 7}")

    assert (7, "r1") == (by_run.session_size, placed(by_run, user_id="al", run_id="r1").run)
    assert placed(of(rule, "session: {by: none}"), user_id="al", run_id="r1").run is None


def test_the_lane_of_all_of_is_its_users_node_and_that_of_any_of_its_selector() -> None:
    """Whichever path of the clause is written first."""
    user, team, member = '{user: "{user_id}"}', "{team: x}", '{org: acme, member: "{user_id}", topic: food}'
    rule = '  - {{when: {{user_id: "*"}}, scope: {{{kind}: [{paths}]}}}}'

    def lane(kind: str, *paths: str) -> str:
        return placed(of(rule.format(kind=kind, paths=", ".join(paths))), user_id="al").lane

    assert "user/al" == lane("all_of", user, team)
    assert lane("all_of", member, user) == lane("all_of", user, member) == "org/acme/member/al"
    assert '[["team/x"],["user/al"]]' == lane("any_of", user, team)
    assert '[["team/x","team/y"]]' == lane("all_of", "{team: x}", "{team: y}")


def test_a_selector_has_one_spelling() -> None:
    """Two memories of one meaning share scope, session and lane."""
    rule = '  - {when: {metadata.a: "*", metadata.b: "*"}, scope: {all_of: [{t: "{metadata.a}"}, {t: "{metadata.b}"}]}}'
    mapping = of(rule)
    one = placed(mapping, metadata={"a": "x", "b": "y"})
    other = placed(mapping, metadata={"a": "y", "b": "x"})

    assert one == other
    assert (("t/x",),) == placed(mapping, metadata={"a": "x", "b": "x"}).selector


def test_the_digest_is_of_what_is_written_and_of_nothing_else(tmp_path: Path) -> None:
    """Comments, names and line breaks change nothing; a row of a lookup table does."""
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,acme\n", encoding="utf-8")
    rule = TENANTS
    plain = of(f"  - {rule}}}", folder=tmp_path).digest
    named = of(f"  # a comment\n  - {rule}, name: tenants}}\n", folder=tmp_path).digest
    changed = {
        of(f"  - {rule}, infer: none}}", folder=tmp_path).digest,
        of(f"  - {rule}, category: identity}}", folder=tmp_path).digest,
        of(f"  - {rule}}}", "labels: {a: b}", folder=tmp_path).digest,
        of(f"  - {rule}}}", "session: {size: 5}", folder=tmp_path).digest,
        of(f"  - {rule}}}", "session: {by: none}", folder=tmp_path).digest,
        of(f"  - {rule}}}", "write: batch", folder=tmp_path).digest,
        of(f"  - {rule}}}", "unmapped: skip", folder=tmp_path).digest,
    }
    (tmp_path / "orgs.csv").write_text("user_id,org\nal,initech\n", encoding="utf-8")
    changed.add(of(f"  - {rule}}}", folder=tmp_path).digest)

    assert plain == named
    assert 8 == len(changed)
    assert plain not in changed


def test_the_default_can_be_written_out_as_a_file(tmp_path: Path) -> None:
    """And then places the same."""
    (tmp_path / "mapping.yaml").write_text(DEFAULT_MAPPING, encoding="utf-8")

    written = load_mapping(tmp_path / "mapping.yaml")

    assert load_mapping(None).digest == written.digest
    assert 1 == placed(written, user_id="al").rule


TENANTS = """{when: {user_id: "*"}, lookup: {file: orgs.csv, key: user_id, value: org},
    scope: {org: "{org}", user: "{user_id}"}"""
OK = '  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mapping.yaml:1: the mapping is empty"),
        ("[]", "mapping.yaml:1: the mapping must be a mapping, not a list"),
        ("rules: [", "mapping.yaml:1: not YAML"),
        ("a:\n\tb: 1", "mapping.yaml:2: not YAML"),
        (f"rules:\n{OK}", "mapping.yaml:1: `version` is missing"),
        (f"version: 2\nrules:\n{OK}", "mapping.yaml:1: version `2` is not known"),
        ("version: 1", "mapping.yaml:1: `rules` is missing"),
        ("version: 1\nrules: []", "mapping.yaml:2: `rules` is empty"),
        (f"version: 1\nversion: 1\nrules:\n{OK}", "mapping.yaml:2: `version` is given twice"),
        (
            f"version: 1\nsesion: {{}}\nrules:\n{OK}",
            "mapping.yaml:2: unknown key `sesion` in the mapping, did you mean `session`?",
        ),
        (f"version: 1\nsession: {{sise: 3}}\nrules:\n{OK}", "unknown key `sise` in `session`, did you mean `size`?"),
        (f"version: 1\nsession: {{size: 0}}\nrules:\n{OK}", "`size` must be a whole number from 1 to 10000, not `0`"),
        (f"version: 1\ninfer: ful\nrules:\n{OK}", "mapping.yaml:2: `infer` cannot be `ful`, did you mean `full`?"),
        (f"version: 1\nlabels: {{_x: y}}\nrules:\n{OK}", "mapping.yaml:2: `_x` is not a legal label"),
        (f'version: 1\nlabels: {{x: "{{user_id}}"}}\nrules:\n{OK}', "label `x` must be one line of plain text"),
        (
            "- {when: {user: x}, scope: {a: b}}",
            "mapping.yaml:3: unknown field `user` in `when`, did you mean `user_id`?",
        ),
        (
            "- {scop: {a: b}}",
            "mapping.yaml:3: unknown key `scop` in rule 1, did you mean `scope`?",
        ),
        ("- {when: {}}", "mapping.yaml:3: rule 1 has no `scope`"),
        ("- {scope: {}}", "mapping.yaml:3: `scope` must be a mapping of words to ids, not empty"),
        ("- {scope: user}", "`scope` must be a mapping of words to ids, not `user`"),
        ('- {scope: {user: ""}}', "a scope segment must be text, not empty"),
        ("- {scope: {User: a}}", "`User` is not a legal scope segment"),
        ("- {scope: {user: a/b}}", "`a/b` is not a legal scope segment"),
        ("- {scope: {user: x--a}}", "`x--a` is not a legal scope segment"),
        ('- {scope: {user: "u-{user_id}"}}', "`u-{user_id}` mixes a field and text"),
        (
            '- {scope: {user: "{user_id}"}}',
            "`scope` uses {user_id}, which `when` has no condition on",
        ),
        (
            '- {scope: {user: "{userid}"}}',
            "unknown field `userid` in `scope`, did you mean `user_id`?",
        ),
        ('- {scope: {user: "{memory}"}}', "unknown field `memory` in `scope`"),
        ("- {scope: {all_of: [{a: b}]}}", "`all_of` needs at least two scopes"),
        ("- {scope: {any_of: [{a: b}, {a: b}]}}", "`any_of` names one scope twice"),
        ("- {scope: {any_of: [{a: b}, {a: c}], x: y}}", "`any_of` must be the only key of a `scope`"),
        ("- {skip: true, scope: {a: b}}", "a rule with `skip: true` takes no `scope`"),
        ("- {skip: 1, scope: {a: b}}", "`skip` must be true or false, not `1`"),
        ("- {when: {expired: 1}, scope: {a: b}}", "`expired` must be true or false"),
        (
            "- {when: {expired: true, deleted: true}, scope: {a: b}}",
            "a memory is never both expired and deleted",
        ),
        ("- {when: {user_id: true}, scope: {a: b}}", "`user_id` is text, never true"),
        ("- {when: {user_id: }, scope: {a: b}}", '`user_id` is empty; `"*"` means present'),
        ("- {when: {user_id: [a]}, scope: {a: b}}", "`user_id` cannot be a list"),
        (
            '- {when: {user_id: "< x"}, scope: {a: b}}',
            "compares with neither a number nor a time",
        ),
        (
            '- {when: {user_id: "{a}{b}"}, scope: {a: b}}',
            "has two names with no text between them",
        ),
        ('- {when: {user_id: "{a}:{a}"}, scope: {a: b}}', "uses one name twice"),
        ('- {when: {user_id: "{a}:*"}, scope: {a: b}}', "mixes names with `*` or `?`"),
        ('- {when: {user_id: "{a"}, scope: {a: b}}', "an unmatched brace"),
        (
            '- {when: {user_id: "{user_id}"}, scope: {a: b}}',
            "`user_id` is a field of every memory",
        ),
        ("- {lookup: {file: x.csv}, scope: {a: b}}", "`lookup` needs `key`, `value`"),
        (
            '- {when: {user_id: "*"}, lookup: {file: x.csv, key: user_id, value: org}, scope: {a: b}}',
            "mapping.yaml:3: cannot read x.csv: No such file",
        ),
        ("version: 1\nrules:\n  - &a {scope: {a: b}}\n  - *a", "anchors and aliases"),
        ("version: 1\nrules:\n  - !!python/object:os.system {scope: {a: b}}", "mapping.yaml:3: tags such as"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_with_its_line(text: str, message: str) -> None:
    """One sentence: what, which, where."""
    whole = f"version: 1\nrules:\n  {text}" if text.startswith("- ") else text

    with pytest.raises(InputError) as refused:
        parse_mapping(whole, Path("/nonexistent"))

    assert message in refused.value.message
    assert ExitCode.INPUT == refused.value.exit_code


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("user_id,organisation\nal,acme\n", "orgs.csv:1: no column `org`"),
        ("", "orgs.csv:1: no column `user_id`"),
        ("user_id,org\nal,acme\nal,initech\n", "orgs.csv:3: two values for one `user_id`"),
        ("user_id,org\nal\n", "orgs.csv:2: no `org`"),
        ("user_id,org\n,acme\n", "orgs.csv:2: no `user_id`"),
        ('user_id,org\n"al,acme\n', "orgs.csv:2: not CSV"),
        ("user_id,org\nal,\udcff", "orgs.csv is not UTF-8 text"),
    ],
)
def test_a_lookup_table_that_cannot_be_meant_is_refused_with_its_line(table: str, message: str, tmp_path: Path) -> None:
    """A user without a tenant must be seen before anything is written."""
    (tmp_path / "orgs.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    rule = f"  - {TENANTS}}}"

    with pytest.raises(InputError) as refused:
        of(rule, folder=tmp_path)

    assert message in refused.value.message


def test_all_problems_are_named_at_once() -> None:
    """Nobody should mend a file line by line against the tool."""
    with pytest.raises(InputError) as refused:
        parse_mapping('version: 1\ninfr: full\nrules:\n  - {scope: {}}\n  - {when: {usr: "*"}, skip: true}\n', Path())

    assert refused.value.message.startswith("3 problems:")


def test_a_message_carries_no_terminal_escape() -> None:
    """What stands in a file is data, also in the sentence that refuses it."""
    with pytest.raises(InputError) as refused:
        parse_mapping('version: 1\n"a\\e[31mb": 1\n"c\\nd": 1\nrules: []\n', Path())

    assert "\x1b" not in refused.value.message
    assert "c\nd" not in refused.value.message


def test_a_mapping_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Never replaced by the default in silence."""
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(InputError):
            load_mapping(path)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
words = st.sampled_from(
    ["version", "rules", "when", "scope", "user_id", "metadata.x", "{user_id}", "{a}:{b}", "all_of", "any_of", "lookup",
     "file", "key", "value", "labels", "skip", "session", "size", "by", "*", "< 3", "expired", "infer", "none", "name"]
)  # fmt: skip
trees = st.recursive(
    scalars | words,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(words | st.text(max_size=6), below, max_size=5),
    max_leaves=25,
)


def loads_or_refuses(text: str, folder: Path) -> None:
    """A mapping, or one InputError: never anything else."""
    said = ""
    try:
        assert isinstance(parse_mapping(text, folder), ScopeMapping)
    except InputError as error:
        said = error.message
    assert "\x1b" not in said


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("-:{}[]&*!|>'\"%@`#,? \n\tab10~<=", max_size=60))
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    """No traceback for a user's mistake."""
    loads_or_refuses(text, Path("/nonexistent"))
    loads_or_refuses(f"version: 1\nrules:\n  - {text}", Path("/nonexistent"))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(words, trees, max_size=6), st.lists(st.dictionaries(words, trees, max_size=4), max_size=3))
def test_any_tree_is_a_mapping_or_refused(top: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    """Right words in wrong places."""
    loads_or_refuses(json.dumps({**top, "version": 1, "rules": rules}), Path("/nonexistent"))


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "{a: " * 5000, "- " * 5000, '"\\U99999999"', '"\\ud800": 1', "\0",
     "%YAML 9.9\n---\na", "!<", "? [a]\n: b", "a: !!int x", "--- a\n--- b", "<<: 1", "a: &b [*b]"],
)  # fmt: skip
def test_what_breaks_parsers_is_refused(text: str) -> None:
    """Too deep, beyond Unicode, several documents, keys that are no text."""
    with pytest.raises(InputError):
        parse_mapping(text, Path())


cells = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.tuples(cells, cells), max_size=5).map(lambda rows: "user_id,org\n" + "\n".join(map(",".join, rows)))
)
def test_any_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, table: str) -> None:
    """CSV comes from anywhere."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "orgs.csv").write_bytes(table.encode("utf-8", "surrogatepass"))
    rule = {
        "when": {"user_id": "*"},
        "lookup": {"file": "orgs.csv", "key": "user_id", "value": "org"},
        "scope": {"org": "{org}", "user": "{user_id}"},
    }
    loads_or_refuses(json.dumps({"version": 1, "rules": [rule]}), folder)
