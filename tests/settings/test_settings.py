"""Settings: options beat the environment, that beats the file; keys are never shown; all problems at once."""

import json
import pickle
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import ExitCode, InputError, KeyRefused
from spectron_migrate.settings import Secret, Settings, is_loopback, load_settings, parse_endpoint

KEY = "sk-ctx-0123456789"
ENV = {"SPECTRON_ENDPOINT": "https://spectron.example", "SPECTRON_CONTEXT": "prod", "SPECTRON_API_KEY": KEY}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file lies where a test runs, unless it put one there."""
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
    """What is said when these settings are refused."""
    with pytest.raises(InputError) as refused:
        load(text, env=env, **overrides)
    assert ExitCode.INPUT == refused.value.exit_code
    assert KEY not in "".join(traceback.format_exception(refused.value))
    return refused.value.message


def test_nothing_at_all_is_enough_to_begin_with() -> None:
    """What is missing is asked for when it is needed."""
    found = load()

    assert found.mem0 is None
    assert (found.mapping, found.dump, found.state) == (None, Path("dump"), Path(".spectron-migrate"))
    assert (120.0, 64, 0) == (found.spectron.timeout_s, found.replay.max_in_flight, found.replay.max_refused)
    assert (5, 0.02, None) == (found.verify.top_k, found.verify.margin, found.verify.min_overlap)
    assert (86400.0, 0.8, "follow") == (found.cutover.max_age_s, found.cutover.guard.p95_s, found.cutover.catch_up)


def test_the_environment_alone_is_enough_to_reach_spectron() -> None:
    """`replay` works as it stands."""
    found = load(env=ENV).spectron.require()

    assert ("https://spectron.example", "prod", 120.0) == (found.endpoint, found.context, found.timeout_s)
    assert KEY == found.api_key.reveal()


def test_a_missing_endpoint_or_context_is_input_and_a_missing_key_is_a_key() -> None:
    """Exit codes 2 and 6, and a hint."""
    with pytest.raises(InputError, match="no Spectron endpoint is set") as both:
        load().spectron.require()
    with pytest.raises(KeyRefused) as key:
        load(env={**ENV, "SPECTRON_API_KEY": " "}).spectron.require()

    assert "no Spectron context is set" in both.value.message
    assert (True, 2) == ("SPECTRON_ENDPOINT" in str(both.value.hint), both.value.exit_code)
    assert (6, "set SPECTRON_API_KEY") == (key.value.exit_code, key.value.hint)


def test_what_a_file_names_and_the_environment_lacks_is_said_with_its_line() -> None:
    """Only when it is needed: an export needs no Spectron."""
    found = load('spectron:\n  endpoint: "${PLACE}"\n  context: c\n  api_key: "${KEY}"')

    with pytest.raises(InputError, match=r"settings.yaml:3: `spectron.endpoint` needs PLACE, which is not set"):
        found.spectron.require()
    with pytest.raises(KeyRefused, match=r"settings.yaml:5: `spectron.api_key` needs KEY, which is not set"):
        load(
            'spectron:\n  endpoint: "${PLACE}"\n  context: c\n  api_key: "${KEY}"', env={"PLACE": "https://a.example"}
        ).spectron.require()


def test_options_beat_the_environment_which_beats_the_file() -> None:
    """Each layer only where it says something."""
    text = "spectron: {endpoint: https://file.example, context: file}\nreplay: {max_in_flight: 8, max_rps: 5}\ndump: d"
    env = {"SPECTRON_CONTEXT": "env"}

    found = load(text, env=env, replay__max_in_flight=2, dump=Path("elsewhere"), state=None)

    assert ("https://file.example", "env") == (found.spectron.endpoint, found.spectron.context)
    assert (2, 5.0) == (found.replay.max_in_flight, found.replay.max_rps)
    assert found.dump == Path("elsewhere")
    assert found.state == Path(".spectron-migrate")
    assert "option" == load(text, env=env, spectron__context="option").spectron.context


def test_paths_of_the_file_are_relative_to_it_and_those_of_options_to_the_working_directory() -> None:
    """So that a file works from everywhere."""
    folder = Path("conf").absolute()
    text = "mapping: m.yaml\ndump: /abs\nverify: {queries: q.jsonl, reports: [r/a.json]}\nstate: ~/s"

    found = load(text, env={"HOME": "/home/al"}, verify__queries="mine.jsonl")

    assert (found.mapping, found.dump, found.state) == (folder / "m.yaml", Path("/abs"), Path("/home/al/s"))
    assert (found.verify.queries, found.verify.reports) == (Path("mine.jsonl"), (folder / "r/a.json",))
    assert folder / "settings.yaml" == found.file


def test_the_default_file_is_read_where_it_lies_in_the_working_directory() -> None:
    """It may be absent; a file that was named may not."""
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
    ],
)
def test_every_family_of_variables_is_understood(env: dict[str, str], expected: tuple[str, str]) -> None:
    """Two names for one value are no contradiction."""
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
            "SPECTRON_API_KEY and AGENT_MEMORY_ENDPOINT are of two families",
        ),
    ],
)
def test_two_values_for_one_setting_and_mixed_families_are_refused(env: dict[str, str], message: str) -> None:
    """The key of one deployment must not go to another."""
    assert message in refusal(env=env)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Spectron.Example/", "https://spectron.example"),
        ("https://h.example/api/v1", "https://h.example"),
        ("https://h.example/api/v1/", "https://h.example"),
        ("https://h.example:8443/prefix/api/v1/", "https://h.example:8443/prefix"),
        ("http://localhost:9090", "http://localhost:9090"),
        ("http://127.0.0.1:9090/", "http://127.0.0.1:9090"),
        ("http://127.8.9.1", "http://127.8.9.1"),
        ("http://[::1]:9090", "http://[::1]:9090"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
    ],
)
def test_an_endpoint_has_one_spelling(text: str, expected: str) -> None:
    """However it was pasted; and that spelling is its own."""
    assert expected == parse_endpoint(text) == parse_endpoint(parse_endpoint(text))


@pytest.mark.parametrize(
    "text",
    [
        "http://h.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://0.0.0.0",
        "http://[::]:80",
        "http://[::ffff:127.0.0.1]",
        "http://2130706433",
        "ftp://h.example",
        "h.example",
        "//h.example",
        "https://",
        "https:///x",
        "https://user:hunter2@h.example",
        "https://hunter2@h.example",
        "https://h.example?key=hunter2",
        "https://h.example/#hunter2",
        "https://h.example/api/v1/ctx",
        "https://h.example:port",
        "https://h.example:99999",
        "https://h.ex ample",
        "https://h.example\\@evil.example",
        "https://h.example/../x y",
        "https://h.example/%2e",
        "https://h.example\n",
        "https://[::1%25hunter2]",
        "https://hé.example",
    ],
)
def test_an_endpoint_that_is_none_is_refused_without_repeating_it(text: str) -> None:
    """A password can stand in it."""
    with pytest.raises(ValueError) as refused:
        parse_endpoint(text)

    assert "hunter2" not in str(refused.value)
    assert "`spectron.endpoint`" in refusal(env={"SPECTRON_ENDPOINT": f"{text}/"})


def test_only_this_machine_is_loopback() -> None:
    """Plain http carries a key nowhere else."""
    inside = ("localhost", "127.0.0.1", "127.255.0.1", "::1")
    outside = ("127.0.0.1.example", "localhost.", "10.0.0.1", "::", "0.0.0.0", "")

    assert [is_loopback(host) for host in (*inside, *outside)] == [True] * 4 + [False] * 6


@pytest.mark.parametrize("key", [KEY, f'"{KEY}"', f'"x${{K}}{KEY}"', "1234", "[a]", "true"])
def test_a_literal_key_is_refused_and_not_repeated(key: str) -> None:
    """Files are committed, mailed and printed."""
    said = refusal(f"spectron:\n  api_key: {key}", env={"K": "v"})

    assert "settings.yaml:3: `spectron.api_key` must not hold the key itself" == said


def test_a_key_can_lie_in_a_file_that_the_settings_name() -> None:
    """Relative to the settings; the environment still beats it."""
    Path("conf").mkdir()
    Path("conf/key").write_text(f"{KEY}\n", encoding="utf-8")
    text = "spectron: {endpoint: https://a.example, context: c, api_key: {file: key}}"

    assert KEY == load(text).spectron.require().api_key.reveal()
    assert "other" == load(text, env={"SPECTRON_API_KEY": "other"}).spectron.require().api_key.reveal()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b" \n", "is empty"), (b"a b", "no key has"), (b"\xff", "no key has")]
)
def test_a_key_file_without_a_key_is_missed_only_when_the_key_is_needed(content: bytes | None, said: str) -> None:
    """An export needs no Spectron key."""
    Path("conf").mkdir()
    if content is not None:
        Path("conf/key").write_bytes(content)
    found = load("spectron: {endpoint: https://a.example, context: c, api_key: {file: key}}")

    with pytest.raises(KeyRefused, match=said) as refused:
        found.spectron.require()
    assert "settings.yaml:2: the key file" in refused.value.message


def test_a_key_that_could_break_a_header_is_refused() -> None:
    """It is not repeated either."""
    for key in (f"{KEY}\r\nX-Other: 1", f"{KEY}é", f"{KEY} x"):
        assert "SPECTRON_API_KEY: `spectron.api_key` holds a character that no key has" == refusal(
            env={"SPECTRON_API_KEY": key}
        )


def test_a_secret_shows_itself_to_nobody() -> None:
    """Neither in repr, str, format, JSON nor inside other things."""
    secret = Secret(KEY)
    found = load(env={**ENV, "MEM0_API_KEY": KEY})

    assert [repr(secret), str(secret), f"{secret}", f"{secret!r:>3}", f"{[secret]}"] == ["***"] * 4 + ["[***]"]
    assert KEY not in repr(found) + str(found.spectron.require())
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert (True, False, False) == (secret == Secret(KEY), secret == Secret("x"), secret == KEY)
    assert 1 == len({secret, Secret(KEY)})
    assert asdict(found)["spectron"]["api_key"] is found.spectron.api_key


def test_each_kind_of_mem0_is_read_from_the_file() -> None:
    """One of four."""
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
    assert (oss.kind, oss.config) == ("oss", str(folder / "mem0.yaml"))
    assert "default" == default.config
    assert ("https://api.mem0.ai", KEY) == (platform.require_base_url(), platform.require_key().reveal())
    assert ("server", "https://m.example") == (server.kind, server.require_base_url())
    assert (files.kind, files.files) == ("files", (str(folder / "old/*.json"), "/abs/x.json"))
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
def test_the_environment_can_point_to_mem0(env: dict[str, str], expected: tuple[str, str]) -> None:
    """Where neither options nor file say which."""
    found = load(env=env).mem0

    assert found is not None
    assert expected == (found.kind, found.base_url)
    assert KEY == found.require_key().reveal()


def test_options_choose_another_mem0_than_the_file() -> None:
    """What the file says of a kind is still used when it is chosen."""
    text = "mem0: {oss: {config: mem0.yaml}}"

    def kind(**overrides: Any) -> tuple[str, str | None, tuple[str, ...]]:
        found = load(text, **overrides).mem0
        assert found is not None
        return found.kind, found.config, found.files

    assert ("files", None, ("a.json",)) == kind(mem0__files=["a.json"])
    assert ("oss", "default", ()) == kind(mem0__oss__config="default")
    assert ("oss", "x.yaml", ()) == kind(mem0__oss__config=Path("x.yaml"))
    assert kind(mem0__source="oss") == ("oss", str(Path("conf/mem0.yaml").absolute()), ())
    assert "platform" == kind(mem0__source="platform")[0]
    assert "files" == kind(mem0__source="file", mem0__files=["a"])[0]


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
        ("cutover: {settle: soon}", "`cutover.settle` is no duration such as 120s, 24h or 800ms"),
        ("cutover: {max_lag: 0}", "`cutover.max_lag` must be longer than nothing"),
        ("cutover: {catch_up: folow}", "`cutover.catch_up` cannot be `folow`, did you mean `follow`?"),
        ("spectron: {context: a/b}", "`spectron.context` holds a character that no context id has"),
        ("spectron: {context: ../x}", "`spectron.context` holds a character that no context id has"),
        ("spectron: {api_key: {path: x}}", "unknown key `path` in `spectron.api_key`"),
        ("spectron: {api_key: {}}", "`spectron.api_key` needs `file`"),
        ("mem0: {oss: {}}", "settings.yaml:2: `mem0.oss` needs `config`"),
        ("mem0: {oss: {config: a}, files: [b]}", "`mem0` is one source, not `files` and `oss`"),
        ("mem0: {files: []}", "`mem0.files` is empty"),
        ("mem0: {server: {base_url: http://m.example}}", "`mem0.server.base_url` must be https"),
        ('dump: "${NOWHERE}"', "settings.yaml:2: `dump` needs NOWHERE, which is not set"),
        ('dump: "${"', "settings.yaml:2: `dump` has a `${` that names no variable"),
        ('dump: "a\\0b"', "settings.yaml:2: text with an invisible character"),
        ("dump: [a]", "settings.yaml:2: `dump` must be text, not a list"),
        ("dump: a\ndump: b", "settings.yaml:3: `dump` is given twice"),
        ("dump: {a", "settings.yaml:2: not YAML"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_their_line(text: str, message: str) -> None:
    """One sentence: what, which, where, and the nearest word that is known."""
    assert message in refusal(text)


def test_the_version_is_asked_for() -> None:
    """A later format is never read as this one; an empty file says nothing."""
    path = Path("settings.yaml")
    path.write_text("dump: x", encoding="utf-8")
    with pytest.raises(InputError, match="`version` is missing"):
        load_settings(path, env={}, overrides={})
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings(path, env={}, overrides={}).dump == Path("dump")


def test_an_option_that_cannot_be_meant_is_named_as_one() -> None:
    """Whatever layer a value came from, the same rules hold."""
    assert "option `replay.max_in_flight`: `replay.max_in_flight` must be" in refusal(replay__max_in_flight=0)
    assert "options: unknown setting `replay.max`" in refusal(replay__max=1)
    assert "options: unknown setting `spectron.api_key`" in refusal(spectron__api_key=KEY)


def test_all_problems_are_named_at_once() -> None:
    """Of all layers."""
    said = refusal("dmp: x\nreplay: {max_rps: -1}", env={"SPECTRON_ENDPOINT": "http://h.example"}, verify__top_k=0)

    assert said.startswith("4 problems:")


def test_durations_have_units_and_bare_numbers_are_seconds() -> None:
    """In the file as in options."""
    text = "cutover: {settle: 0, max_lag: 1.5m, max_age: 2d, guard: {p95: 800ms, window: 90}}"

    found = load(text, spectron__timeout="24h")

    assert (0.0, 90.0, 172800.0) == (found.cutover.settle_s, found.cutover.max_lag_s, found.cutover.max_age_s)
    assert (0.8, 90.0) == (found.cutover.guard.p95_s, found.cutover.guard.window_s)
    assert 86400.0 == found.spectron.timeout_s


def loads_or_refuses(text: str) -> None:
    """Settings, or one InputError: never anything else."""
    path = Path("fuzz.yaml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = ""
    try:
        assert isinstance(load_settings(path, env=ENV, overrides={}), Settings)
    except InputError as error:
        said = error.message
    assert KEY not in said
    assert "\x1b" not in said


fuzzed = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    """No traceback for a user's mistake."""
    loads_or_refuses(text)
    loads_or_refuses(f"version: 1\nspectron: {text}")


@fuzzed
@given(st.dictionaries(words, st.dictionaries(words, trees, max_size=4) | trees, max_size=6))
def test_any_tree_is_settings_or_refused(tree: dict[str, Any]) -> None:
    """Right words in wrong places."""
    loads_or_refuses(json.dumps({"version": 1, **tree}))


@fuzzed
@given(st.text() | st.from_regex(r"https?://[a-z0-9.:@\[\]%/?#\\-]{0,20}"))
def test_any_endpoint_is_kept_or_refused(text: str) -> None:
    """And never plain http to another machine."""
    try:
        found = parse_endpoint(text)
    except ValueError:
        return
    host = found.removeprefix("http://").split("/")[0].rsplit(":", 1)[0].strip("[]")
    assert found.startswith("https://") or is_loopback(host) or is_loopback(f"{host}:1".rsplit(":", 1)[0])
    assert found == parse_endpoint(found)
