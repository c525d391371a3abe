"""Options override the environment, which overrides the file; all problems are reported at once, and no key is."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import ExitCode, InputError, KeyRefused
from spectron_migrate.settings import (
    CutoverSettings,
    GuardSettings,
    Mem0Settings,
    ReplaySettings,
    Secret,
    Settings,
    SpectronAccess,
    SpectronSettings,
    VerifySettings,
    load_settings,
)
from tests.support.examples import examples

pytestmark = pytest.mark.slow

KEY = "sk-ctx-0123456789"
ENV = {"SPECTRON_ENDPOINT": "https://spectron.example", "SPECTRON_CONTEXT": "prod", "SPECTRON_API_KEY": KEY}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a test has no settings file, unless the test writes one."""
    monkeypatch.chdir(tmp_path)


def load(text: str | None = None, *, env: dict[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings of a file with this text, below the version."""
    path = None
    if text is not None:
        path = Path("conf/settings.yaml").absolute()
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"version: 1\n{text}", encoding="utf-8")
    given_options = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_settings(path, env=env or {}, overrides=given_options)


def refusal(text: str | None = None, *, env: dict[str, str] | None = None, **overrides: Any) -> str:
    """The message with which these settings are refused."""
    with pytest.raises(InputError) as refused:
        load(text, env=env, **overrides)
    assert ExitCode.INPUT == refused.value.exit_code
    assert KEY not in "".join(traceback.format_exception(refused.value))
    return refused.value.message


def test_every_setting_has_a_default() -> None:
    """A missing setting is a problem only when it is needed."""
    nothing = Settings(
        mem0=None,
        spectron=SpectronSettings(),
        mapping=None,
        dump=Path("dump"),
        state=Path(".spectron-migrate"),
        replay=ReplaySettings(),
        verify=VerifySettings(),
        cutover=CutoverSettings(),
        file=None,
    )

    assert nothing == load()


def test_a_soak_takes_a_day_unless_the_settings_say_otherwise() -> None:
    assert 24 * 3600.0 == load().cutover.soak_s
    assert 0.0 == load("cutover: {soak: 0s}").cutover.soak_s


def test_the_environment_alone_is_enough_to_reach_spectron() -> None:
    """`replay` works without a file."""
    access = load(env=ENV).spectron.require()

    assert SpectronAccess("https://spectron.example", "prod", Secret(KEY), 120.0) == access


def test_a_missing_endpoint_or_context_is_exit_code_2_and_a_missing_key_6() -> None:
    with pytest.raises(InputError, match="no Spectron endpoint is set") as both:
        load().spectron.require()
    assert "no Spectron context is set" in both.value.message
    assert "SPECTRON_ENDPOINT" in str(both.value.hint)
    assert ExitCode.INPUT == both.value.exit_code

    with pytest.raises(KeyRefused) as key:
        load(env={**ENV, "SPECTRON_API_KEY": " "}).spectron.require()
    assert "set SPECTRON_API_KEY" == key.value.hint
    assert ExitCode.KEY == key.value.exit_code


def test_a_variable_that_is_not_set_is_named_with_its_line() -> None:
    """Only when its setting is needed: an export needs no Spectron."""
    found = load('spectron:\n  endpoint: "${PLACE}"\n  context: c\n  api_key: "${KEY}"')

    with pytest.raises(InputError, match=r"settings.yaml:3: `spectron.endpoint` needs PLACE, which is not set"):
        found.spectron.require()
    with pytest.raises(KeyRefused, match=r"settings.yaml:5: `spectron.api_key` needs KEY, which is not set"):
        load(
            'spectron:\n  endpoint: "${PLACE}"\n  context: c\n  api_key: "${KEY}"', env={"PLACE": "https://a.example"}
        ).spectron.require()


def test_options_beat_the_environment_which_beats_the_file() -> None:
    """A layer without a value does not hide the next one."""
    text = "spectron: {endpoint: https://file.example, context: file}\nreplay: {max_in_flight: 8, max_rps: 5}\ndump: d"
    env = {"SPECTRON_CONTEXT": "env"}

    found = load(text, env=env, replay__max_in_flight=2, dump=Path("elsewhere"), state=None)

    assert ("https://file.example", "env") == (found.spectron.endpoint, found.spectron.context)
    assert (2, 5.0) == (found.replay.max_in_flight, found.replay.max_rps)
    assert Path("elsewhere") == found.dump
    assert Path(".spectron-migrate") == found.state
    assert "option" == load(text, env=env, spectron__context="option").spectron.context


def test_paths_of_the_file_are_relative_to_it_and_those_of_options_to_the_working_directory() -> None:
    """A settings file works from every working directory."""
    folder = Path("conf").absolute()
    text = "mapping: m.yaml\ndump: /abs\nverify: {queries: q.jsonl, reports: [r/a.json]}\nstate: ~/s"

    found = load(text, env={"HOME": "/home/al"}, verify__queries="mine.jsonl")

    assert folder / "m.yaml" == found.mapping
    assert Path("/abs") == found.dump
    assert Path("/home/al/s") == found.state
    assert Path("mine.jsonl") == found.verify.queries
    assert (folder / "r/a.json",) == found.verify.reports
    assert folder / "settings.yaml" == found.file


def test_the_default_file_of_the_working_directory_is_read() -> None:
    """It may be missing; a file that was named may not."""
    Path("spectron-migrate.yaml").write_text("version: 1\ndump: here\n", encoding="utf-8")

    assert load().dump == Path("here")
    with pytest.raises(InputError, match=r"there is no file other\.yaml"):
        load_settings(Path("other.yaml"), env={}, overrides={})


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"SPECTRON_URL": "https://a.example", "SPECTRON_CONTEXT_ID": "c"}, ("https://a.example", "c")),
        ({"SPECTRON_URL": "https://a.example/", "SPECTRON_ENDPOINT": "https://a.example"}, ("https://a.example", None)),
        ({"AGENT_MEMORY_ENDPOINT": "https://a.example", "AGENT_MEMORY_CONTEXT": "c"}, ("https://a.example", "c")),
        ({"SPECTRON_CONTEXT": "c", "AGENT_MEMORY_CONTEXT": "c"}, (None, "c")),
        ({"SURREAL_MEMORY_URL": "https://a.example", "SURREAL_MEMORY_CONTEXT_ID": "c"}, ("https://a.example", "c")),
    ],
)
def test_variables_of_every_family_are_read(env: dict[str, str], expected: tuple[str, str]) -> None:
    """Two variables with the same value are allowed."""
    found = load(env=env).spectron

    assert expected == (found.endpoint, found.context)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"SPECTRON_URL": "https://a.example", "SPECTRON_ENDPOINT": "https://b.example"},
            "environment: SPECTRON_ENDPOINT and SPECTRON_URL differ",
        ),
        (
            {"SPECTRON_API_KEY": KEY, "AGENT_MEMORY_API_KEY": "another"},
            "environment: SPECTRON_API_KEY and AGENT_MEMORY_API_KEY differ",
        ),
        (
            {"SPECTRON_API_KEY": KEY, "AGENT_MEMORY_ENDPOINT": "https://a.example"},
            "SPECTRON_API_KEY and AGENT_MEMORY_ENDPOINT belong to two families",
        ),
        (
            {"SURREAL_MEMORY_URL": "https://a.example", "AGENT_MEMORY_API_KEY": KEY},
            "AGENT_MEMORY_API_KEY and SURREAL_MEMORY_URL belong to two families",
        ),
        (
            {"SPECTRON_URL": "https://a.example", "SURREAL_MEMORY_URL": "https://b.example"},
            "environment: SPECTRON_URL and SURREAL_MEMORY_URL differ",
        ),
    ],
)
def test_two_values_for_one_setting_and_mixed_families_are_refused(env: dict[str, str], message: str) -> None:
    """The key of one deployment must not be sent to another."""
    assert message in refusal(env=env)


@pytest.mark.parametrize("text", ["http://h.example", "https://user:hunter2@h.example", "h.example"])
def test_a_wrong_endpoint_is_refused_without_repeating_it(text: str) -> None:
    """It may contain a password."""
    message = refusal(env={"SPECTRON_ENDPOINT": text})

    assert "`spectron.endpoint`" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("key", [KEY, f'"{KEY}"', f'"x${{K}}{KEY}"', "1234", "[a]", "true"])
def test_a_literal_key_is_refused_and_not_repeated(key: str) -> None:
    """Files are committed, mailed and printed."""
    said = refusal(f"spectron:\n  api_key: {key}", env={"K": "v"})
    assert said == refusal(f"spectron:\n  api_key: {key}", env={"K": "v", "SPECTRON_API_KEY": "another"})

    assert "settings.yaml:3: `spectron.api_key` must not contain the key itself" == said


def test_a_key_is_read_from_the_file_that_the_settings_name() -> None:
    """Relative to the settings file; the environment beats it."""
    Path("conf").mkdir()
    Path("conf/key").write_text(f"{KEY}\n", encoding="utf-8")
    text = "spectron: {endpoint: https://a.example, context: c, api_key: {file: key}}"

    assert KEY == load(text).spectron.require().api_key.reveal()
    assert "other" == load(text, env={"SPECTRON_API_KEY": "other"}).spectron.require().api_key.reveal()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b" \n", "is empty"), (b"a b", "no key has"), (b"\xff", "no key has")]
)
def test_a_key_file_without_a_key_is_refused_only_when_the_key_is_needed(content: bytes | None, said: str) -> None:
    """An export needs no Spectron key."""
    Path("conf").mkdir()
    if content is not None:
        Path("conf/key").write_bytes(content)
    found = load("spectron: {endpoint: https://a.example, context: c, api_key: {file: key}}")

    with pytest.raises(KeyRefused, match=said) as refused:
        found.spectron.require()
    assert "settings.yaml:2: the key file" in refused.value.message


def test_a_key_that_could_break_a_header_is_refused() -> None:
    """The message does not repeat it."""
    for key in (f"{KEY}\r\nX-Other: 1", f"{KEY}é", f"{KEY} x"):
        assert "SPECTRON_API_KEY: `spectron.api_key` contains a character that no key has" == refusal(
            env={"SPECTRON_API_KEY": key}
        )


def test_each_kind_of_mem0_is_read_from_the_file() -> None:
    folder = Path("conf").absolute()
    env = {"K": KEY}

    oss = load("mem0: {oss: {config: mem0.yaml}}").mem0
    default = load("mem0: {oss: {config: default}}").mem0
    platform = load('mem0: {platform: {api_key: "${K}"}}', env=env).mem0
    server = load("mem0: {server: {base_url: https://m.example/}}").mem0
    files = load('mem0: {files: ["old/*.json", /abs/x.json]}').mem0

    assert oss is not None
    assert default is not None
    assert platform is not None
    assert server is not None
    assert files is not None
    assert "oss" == oss.kind
    assert str(folder / "mem0.yaml") == oss.config
    assert "default" == default.config
    assert ("https://api.mem0.ai", KEY) == (platform.require_base_url(), platform.require_key().reveal())
    assert ("server", "https://m.example") == (server.kind, server.require_base_url())
    assert "files" == files.kind
    assert (str(folder / "old/*.json"), "/abs/x.json") == files.files
    with pytest.raises(KeyRefused, match="no Mem0 key is set"):
        server.require_key()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"MEM0_API_KEY": KEY}, ("platform", "https://api.mem0.ai")),
        ({"MEM0_API_KEY": KEY, "MEM0_BASE_URL": "https://api.mem0.ai/"}, ("platform", "https://api.mem0.ai")),
        ({"MEM0_API_KEY": KEY, "MEM0_BASE_URL": "https://m.example"}, ("server", "https://m.example")),
    ],
)
def test_the_environment_can_name_mem0(env: dict[str, str], expected: tuple[str, str]) -> None:
    """Where neither options nor file name one."""
    found = load(env=env).mem0

    assert found is not None
    assert expected == (found.kind, found.base_url)
    assert KEY == found.require_key().reveal()


def test_options_select_another_mem0_than_the_file() -> None:
    """The file's settings of a kind are used when an option selects that kind."""
    text = "mem0: {oss: {config: mem0.yaml}}"

    def mem0(**overrides: Any) -> Mem0Settings | None:
        return load(text, **overrides).mem0

    assert Mem0Settings("files", files=("a.json",)) == mem0(mem0__files=["a.json"])
    assert Mem0Settings("oss", config="default") == mem0(mem0__oss__config="default")
    assert Mem0Settings("oss", config="x.yaml") == mem0(mem0__oss__config=Path("x.yaml"))
    assert Mem0Settings("oss", config=str(Path("conf/mem0.yaml").absolute())) == mem0(mem0__source="oss")
    assert Mem0Settings("platform", base_url="https://api.mem0.ai") == mem0(mem0__source="platform")
    assert Mem0Settings("files", files=("a",)) == mem0(mem0__source="file", mem0__files=["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "replay: {max_inflight: 3}",
            "settings.yaml:2: unknown key `max_inflight` in `replay`, did you mean `max_in_flight`?",
        ),
        ("spectrum: {}", "settings.yaml:2: unknown key `spectrum` in the settings, did you mean `spectron`?"),
        (
            "cutover:\n  guard:\n    p99: 1s",
            "settings.yaml:4: unknown key `p99` in `cutover.guard`, did you mean `p95`?",
        ),
        ("replay: 3", "settings.yaml:2: `replay` must be a mapping, not `3`"),
        ("replay: {max_in_flight: 0}", "`replay.max_in_flight` must be a whole number from 1 to 1024, not `0`"),
        ("replay: {max_in_flight: true}", "`replay.max_in_flight` must be a whole number"),
        ("replay: {max_in_flight: 1.5}", "`replay.max_in_flight` must be a whole number"),
        ("replay: {max_rps: 0}", "`replay.max_rps` must be a number above 0, not `0`"),
        ("replay: {max_rps: fast}", "`replay.max_rps` must be a number above 0, not `fast`"),
        ("replay: {max_refused: -1}", "`replay.max_refused` must be a whole number of 0 or more, not `-1`"),
        ("verify: {top_k: 51}", "`verify.top_k` must be a whole number from 1 to 50, not `51`"),
        ("verify: {margin: 2}", "`verify.margin` must be a share from 0 to 1, not `2`"),
        ("verify: {reports: a.json}", "`verify.reports` must be a list, not `a.json`"),
        ("cutover: {settle: soon}", "`cutover.settle` is not a duration such as 120s, 24h or 800ms"),
        ("cutover: {max_lag: 0}", "`cutover.max_lag` must be longer than nothing"),
        ("cutover: {catch_up: folow}", "`cutover.catch_up` cannot be `folow`, did you mean `follow`?"),
        ("spectron: {context: a/b}", "`spectron.context` contains a character that no context id has"),
        ("spectron: {context: ../x}", "`spectron.context` contains a character that no context id has"),
        ("spectron: {api_key: {path: x}}", "unknown key `path` in `spectron.api_key`"),
        ("spectron: {api_key: {}}", "`spectron.api_key` needs `file`"),
        ("mem0: {oss: {}}", "settings.yaml:2: `mem0.oss` needs `config`"),
        ("mem0: {oss: {config: a}, files: [b]}", "`mem0` must be one source, not `files` and `oss`"),
        ("mem0: {files: []}", "`mem0.files` is empty"),
        ("mem0: {server: {base_url: http://m.example}}", "`mem0.server.base_url` must be https"),
        ('dump: "${NOWHERE}"', "settings.yaml:2: `dump` needs NOWHERE, which is not set"),
        ('dump: "${"', "settings.yaml:2: `dump` has a `${` without the name of a variable"),
        ('dump: "a\\0b"', "settings.yaml:2: text with an invisible character"),
        ("dump: [a]", "settings.yaml:2: `dump` must be text, not a list"),
        ("dump: a\ndump: b", "settings.yaml:3: `dump` is given twice"),
        ("dump: {a", "settings.yaml:2: not YAML"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line(text: str, message: str) -> None:
    """One sentence: what, which, where, and the most similar known word."""
    assert message in refusal(text)


def test_a_file_needs_a_version() -> None:
    """A later format is never read as this one; an empty file counts as none."""
    path = Path("settings.yaml")
    path.write_text("dump: x", encoding="utf-8")
    with pytest.raises(InputError, match="`version` is missing"):
        load_settings(path, env={}, overrides={})
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings(path, env={}, overrides={}).dump == Path("dump")


def test_a_wrong_option_is_named_as_an_option() -> None:
    """The same rules hold for every layer."""
    assert "option `replay.max_in_flight`: `replay.max_in_flight` must be" in refusal(replay__max_in_flight=0)
    assert "options: unknown setting `replay.max`" in refusal(replay__max=1)
    assert "options: unknown setting `spectron.api_key`" in refusal(spectron__api_key=KEY)


def test_problems_of_all_layers_are_reported_at_once() -> None:
    said = refusal("dmp: x\nreplay: {max_rps: -1}", env={"SPECTRON_ENDPOINT": "http://h.example"}, verify__top_k=0)

    assert said.startswith("4 problems:")


def test_durations_have_units_and_bare_numbers_are_seconds() -> None:
    text = "cutover: {settle: 0, max_lag: 1.5m, max_age: 2d, guard: {p95: 800ms, window: 90}}"

    found = load(text, spectron__timeout="24h")

    expected = CutoverSettings(
        settle_s=0.0, max_lag_s=90.0, max_age_s=172800.0, guard=GuardSettings(p95_s=0.8, window_s=90.0)
    )
    assert expected == found.cutover
    assert 86400.0 == found.spectron.timeout_s


def loads_or_refuses(text: str) -> None:
    """The text must load or raise InputError, and the message must be safe to print."""
    path = Path("fuzz.yaml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = ""
    try:
        assert isinstance(load_settings(path, env=ENV, overrides={}), Settings)
    except InputError as error:
        said = error.message
    assert KEY not in said
    assert "\x1b" not in said


fuzzed = settings(
    max_examples=examples(250), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("${HOME}")
words = st.sampled_from(
    ["mem0", "oss", "config", "server", "base_url", "api_key", "files", "file", "spectron", "endpoint", "context",
     "timeout", "mapping", "dump", "state", "replay", "max_rps", "max_in_flight", "verify", "top_k", "margin",
     "reports", "cutover", "guard", "p95", "settle", "catch_up"]
)  # fmt: skip
trees = st.recursive(
    scalars | words,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(words | st.text(max_size=4), below, max_size=4),
    max_leaves=20,
)


@fuzzed
@given(st.text() | st.text("-:{}[]&*!|>'\"%@`#,? \n\tab10~$", max_size=60))
def test_any_text_is_settings_or_refused(text: str) -> None:
    """No mistake of a user is a traceback."""
    loads_or_refuses(text)
    loads_or_refuses(f"version: 1\nspectron: {text}")


@fuzzed
@given(st.dictionaries(words, st.dictionaries(words, trees, max_size=4) | trees, max_size=6))
def test_any_tree_is_settings_or_refused(tree: dict[str, Any]) -> None:
    """Known keys at any level."""
    loads_or_refuses(json.dumps({"version": 1, **tree}))


URL = "postgresql://migrator@db.example/app"


def test_the_state_is_named_by_an_option_else_a_variable_else_the_file() -> None:
    text, env = "state: from-file", {"SPECTRON_MIGRATE_STATE": f"{URL}?schema=mine"}

    assert Path("conf").absolute() / "from-file" == load(text).state
    assert PostgresLocation(URL, "mine") == load(text, env=env).state
    assert PostgresLocation(URL, "spectron_migrate") == load(text, env=env, state=URL).state
    assert Path("here") == load(text, env={"SPECTRON_MIGRATE_STATE": "here"}).state, "as for an option, not the file's"
    assert load(text, env=env).state_is_named
    assert load(env=env).state_is_named


@pytest.mark.parametrize("secret", ["migrator:hush@db.example/app", "db.example/app?password=hush"])
def test_a_literal_password_in_the_file_is_refused_and_never_shown(secret: str) -> None:
    with pytest.raises(InputError, match=r"settings.yaml:2: `state` contains a password") as refused:
        load(f"state: postgresql://{secret}")
    assert "hush" not in str(refused.value)
    assert "PGPASSFILE" in str(refused.value.hint)


def test_a_password_may_come_from_a_variable_that_the_file_names() -> None:
    state = load('state: "postgresql://migrator:${PW}@db.example/app"', env={"PW": "hush"}).state

    assert isinstance(state, PostgresLocation)
    assert "hush" in state.url
    assert "postgresql://migrator@db.example/app" == str(state)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("mysql://migrator:hush@db/app", "`state` is mysql://…, it must be a directory or postgresql://…"),
        (f"{URL}?schema=Mine", "`schema` of `state` is Mine"),
        (
            str(Path("postgresql://migrator:hush@db/app")),
            "`state` is a URL with one slash, it must be text, not a path",
        ),
    ],
)
@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_url_that_names_no_schema_of_postgres_is_refused(given: str, problem: str, how: str) -> None:
    with pytest.raises(InputError) as refused:
        load(env={"SPECTRON_MIGRATE_STATE": given}) if how == "variable" else load(state=given)
    assert problem in str(refused.value)
    assert "hush" not in str(refused.value)
