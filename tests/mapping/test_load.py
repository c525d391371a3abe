"""Which mapping files are read, and which are refused with all their problems."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.mapping import DEFAULT_MAPPING, ScopeMapping, load_mapping, parse_mapping
from tests.mapping.support import TENANTS, mapped, mapping_of
from tests.support.examples import examples

pytestmark = pytest.mark.slow


def test_the_default_is_the_same_mapping_when_it_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(DEFAULT_MAPPING, encoding="utf-8")

    written = load_mapping(tmp_path / "mapping.yaml")

    assert load_mapping(None).digest == written.digest
    assert 1 == mapped(written, user_id="al").rule


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
        (
            f'version: 1\nlabels: {{x: "a {{id}}"}}\nrules:\n{OK}',
            "label `x` must be one line of plain text, or one field",
        ),
        (f'version: 1\nlabels: {{x: "{{idd}}"}}\nrules:\n{OK}', "unknown field `idd` in a label, did you mean `id`"),
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
def test_a_wrong_mapping_is_refused_with_its_line(text: str, message: str) -> None:
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
def test_a_wrong_lookup_table_is_refused_with_its_line(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "orgs.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    rule = f"  - {TENANTS}}}"

    with pytest.raises(InputError) as refused:
        mapping_of(rule, folder=tmp_path)

    assert message in refused.value.message


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InputError) as refused:
        parse_mapping('version: 1\ninfr: full\nrules:\n  - {scope: {}}\n  - {when: {usr: "*"}, skip: true}\n', Path())

    assert refused.value.message.startswith("3 problems:")


def test_a_message_contains_no_terminal_escape() -> None:
    with pytest.raises(InputError) as refused:
        parse_mapping('version: 1\n"a\\e[31mb": 1\n"c\\nd": 1\nrules: []\n', Path())

    assert "\x1b" not in refused.value.message
    assert "c\nd" not in refused.value.message


def test_a_mapping_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """It is never replaced by the default."""
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
    """The text must load or raise InputError, and the message must be safe to print."""
    said = ""
    try:
        assert isinstance(parse_mapping(text, folder), ScopeMapping)
    except InputError as error:
        said = error.message
    assert "\x1b" not in said


@settings(max_examples=examples(300), deadline=None)
@given(st.text() | st.text("-:{}[]&*!|>'\"%@`#,? \n\tab10~<=", max_size=60))
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    """No mistake of a user is a traceback."""
    loads_or_refuses(text, Path("/nonexistent"))
    loads_or_refuses(f"version: 1\nrules:\n  - {text}", Path("/nonexistent"))


@settings(max_examples=examples(200), deadline=None)
@given(st.dictionaries(words, trees, max_size=6), st.lists(st.dictionaries(words, trees, max_size=4), max_size=3))
def test_any_tree_is_a_mapping_or_refused(top: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    """Known keys at any level."""
    loads_or_refuses(json.dumps({**top, "version": 1, "rules": rules}), Path("/nonexistent"))


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "{a: " * 5000, "- " * 5000, '"\\U99999999"', '"\\ud800": 1', "\0",
     "%YAML 9.9\n---\na", "!<", "? [a]\n: b", "a: !!int x", "--- a\n--- b", "<<: 1", "a: &b [*b]"],
)  # fmt: skip
def test_text_that_breaks_parsers_is_refused(text: str) -> None:
    """Nested too deeply, beyond Unicode, several documents, keys that are not text."""
    with pytest.raises(InputError):
        parse_mapping(text, Path())


cells = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.tuples(cells, cells), max_size=5).map(lambda rows: "user_id,org\n" + "\n".join(map(",".join, rows)))
)
def test_any_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, table: str) -> None:
    folder = tmp_path_factory.mktemp("table")
    (folder / "orgs.csv").write_bytes(table.encode("utf-8", "surrogatepass"))
    rule = {
        "when": {"user_id": "*"},
        "lookup": {"file": "orgs.csv", "key": "user_id", "value": "org"},
        "scope": {"org": "{org}", "user": "{user_id}"},
    }
    loads_or_refuses(json.dumps({"version": 1, "rules": [rule]}), folder)
