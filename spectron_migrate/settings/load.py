"""Settings from options, environment and file: the stronger layer wins, all problems at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from spectron_migrate.settings.strict_yaml import (
    Node,
    Problems,
    check_version,
    choice,
    entries,
    items,
    nearest,
    read_yaml,
    shown,
    text_of,
    whole_number,
)
from spectron_migrate.settings.types import (
    DEFAULT_FILE,
    SOURCES,
    CutoverSettings,
    GuardSettings,
    Mem0Settings,
    ReplaySettings,
    Secret,
    Settings,
    SourceKind,
    SpectronSettings,
    VerifySettings,
)
from spectron_migrate.settings.values import (
    dotted,
    from_environment,
    option_node,
    parse_context,
    parse_duration,
    parse_endpoint,
    parse_key,
    read_key,
)

PLATFORM = "https://api.mem0.ai"

SCHEMA: Mapping[str, Any] = {
    "version": None,
    "mem0": {
        "oss": {"config": None},
        "platform": {"base_url": None, "api_key": None},
        "server": {"base_url": None, "api_key": None},
        "files": None,
    },
    "spectron": {"endpoint": None, "context": None, "api_key": None, "timeout": None},
    "mapping": None,
    "dump": None,
    "state": None,
    "replay": dict.fromkeys(("max_in_flight", "max_rps", "max_tokens", "max_seconds", "max_refused")),
    "verify": dict.fromkeys(("queries", "top_k", "margin", "min_overlap", "reports")),
    "cutover": {
        **dict.fromkeys(("catch_up", "settle", "max_lag", "max_age", "shadow", "capture")),
        "guard": dict.fromkeys(("error_rate", "p95", "window")),
    },
}
"""Every key of the file; a mapping is a section."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LAZY = (".endpoint", ".context", ".base_url", ".api_key")
"""What may be missing until it is needed."""

T = TypeVar("T")


def load_settings(path: Path | None, *, env: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """The settings of a file, the environment and a run's options.

    With None, `spectron-migrate.yaml` in the working directory is read if it is there. `overrides` holds the
    options under dotted names (`dump`, `replay.max_in_flight`, `mem0.oss.config`; `mem0.source` chooses a
    kind of source); None stands for an option that was not given. Paths in the file are relative to it.

    Raises InputError naming every problem with file and line. What is merely missing is no problem here:
    `SpectronSettings.require` and its like raise when it is needed.
    """
    if path is None and DEFAULT_FILE.is_file():
        path = DEFAULT_FILE
    problems = Problems()
    written: dict[str, Node] = {}
    root = read_yaml(path) if path is not None else None
    if root is not None and root.value is not None:
        _flatten(root, SCHEMA, "", written, problems)
        if isinstance(root.value, Mapping):
            check_version(root.value, root.where, problems)
    settings = _SettingsParser(written, path, env, overrides, problems).settings()
    problems.refuse()
    return settings


def _flatten(node: Node, schema: Mapping[str, Any], prefix: str, found: dict[str, Node], problems: Problems) -> None:
    """Sections and values under dotted names; what is null is as if it were not there."""
    what = f"`{prefix[:-1]}`" if prefix else "the settings"
    for key, child in entries(node, tuple(schema), what, problems).items():
        if child.value is None:
            continue
        found[prefix + key] = child
        if isinstance(schema[key], Mapping):
            _flatten(child, schema[key], f"{prefix}{key}.", found, problems)


class _SettingsParser:
    """Looks each setting up in options, environment and file, and collects what is wrong."""

    def __init__(
        self,
        written: Mapping[str, Node],
        path: Path | None,
        env: Mapping[str, str],
        overrides: Mapping[str, Any],
        problems: Problems,
    ) -> None:
        self.file = path
        self.folder = path.parent if path is not None else Path()
        self.env = env
        self.problems = problems
        self.written = written
        self.options = {
            key: option_node(key, value) for key, value in overrides.items() if value is not None and self.known(key)
        }
        found = from_environment(env, problems)
        self.variables = {f"spectron.{name}": node for name, node in found.items()}
        self.reasons: dict[str, str] = {}
        """Why something that may be missing is missing, although it was named."""

    def known(self, key: str) -> bool:
        names = ["mem0.source", *(name for name in dotted(SCHEMA) if not name.endswith("api_key"))]
        if key not in names:
            self.problems.add("options", f"unknown setting `{shown(key)}`, {nearest(key, names)}")
        return key in names

    def settings(self) -> Settings:
        return Settings(
            mem0=self.mem0(),
            spectron=SpectronSettings(
                endpoint=self.parsed("spectron.endpoint", parse_endpoint),
                context=self.parsed("spectron.context", parse_context),
                api_key=self.key("spectron.api_key"),
                timeout_s=self.seconds("spectron.timeout", 120.0),
                reasons=self.why("spectron"),
            ),
            mapping=self.path("mapping"),
            dump=self.path("dump") or Path("dump"),
            state=self.path("state") or Path(".spectron-migrate"),
            replay=self.replay(),
            verify=self.verify(),
            cutover=self.cutover(),
            file=self.file,
        )

    def replay(self) -> ReplaySettings:
        return ReplaySettings(
            max_in_flight=self.whole("replay.max_in_flight", 64, least=1, most=1024),
            max_rps=self.above_zero("replay.max_rps"),
            max_tokens=self.whole("replay.max_tokens", None, least=1),
            max_seconds=self.above_zero("replay.max_seconds"),
            max_refused=self.whole("replay.max_refused", 0, least=0),
        )

    def verify(self) -> VerifySettings:
        reports = self.find("verify.reports")
        listed = () if reports is None else items(reports, "`verify.reports`", self.problems)
        return VerifySettings(
            queries=self.path("verify.queries"),
            top_k=self.whole("verify.top_k", 5, least=1, most=50),
            margin=self.share("verify.margin", 0.02),
            min_overlap=self.share("verify.min_overlap", None),
            reports=tuple(self.path_of("verify.reports", one) for one in listed),
        )

    def cutover(self) -> CutoverSettings:
        catch_up = self.word("cutover.catch_up", ("follow", "outbox"))
        capture = self.word("cutover.capture", ("memories", "messages"))
        if capture == "messages" and catch_up == "follow" and (node := self.find("cutover.capture")) is not None:
            self.problems.add(node.where, "`cutover.capture: messages` needs `cutover.catch_up: outbox`")
        return CutoverSettings(
            catch_up=cast(Literal["follow", "outbox"], catch_up),
            settle_s=self.seconds("cutover.settle", 60.0, zero=True),
            max_lag_s=self.seconds("cutover.max_lag", 60.0),
            max_age_s=self.seconds("cutover.max_age", 86400.0),
            shadow=self.share("cutover.shadow", 0.0),
            capture=cast(Literal["memories", "messages"], capture),
            guard=GuardSettings(
                error_rate=self.share("cutover.guard.error_rate", 0.02),
                p95_s=self.seconds("cutover.guard.p95", 0.8),
                window_s=self.seconds("cutover.guard.window", 60.0),
            ),
        )

    def mem0(self) -> Mem0Settings | None:
        kind = self.source()
        if kind is None:
            return None
        if kind == "oss":
            return Mem0Settings(kind, config=self.oss_config())
        if kind == "files":
            return Mem0Settings(kind, files=self.patterns())
        section = f"mem0.{kind}"
        for name, variable in (("base_url", "MEM0_BASE_URL"), ("api_key", "MEM0_API_KEY")):
            if value := self.env.get(variable, "").strip():
                self.variables[f"{section}.{name}"] = Node(value, variable)
        base_url = self.parsed(f"{section}.base_url", parse_endpoint)
        if kind == "platform" and base_url is None and f"{section}.base_url" not in self.reasons:
            base_url = PLATFORM
        key = self.key(f"{section}.api_key")
        return Mem0Settings(kind, base_url=base_url, api_key=key, reasons=self.why(section))

    def source(self) -> SourceKind | None:
        """Which kind of Mem0: the options', else the file's, else what the environment points to."""
        chosen = self.options.get("mem0.source")
        if chosen is not None:
            word = "files" if chosen.value == "file" else chosen.value
            for kind in SOURCES:
                if kind == word:
                    return kind
            self.problems.add(chosen.where, f"unknown source {chosen.kind}, {nearest(chosen.raw, SOURCES)}")
            return None
        for layer in (self.options, self.written):
            kinds = sorted({key.split(".")[1] for key in layer if key.startswith("mem0.")})
            if len(kinds) > 1:
                where = next(node.where for key, node in layer.items() if key.startswith("mem0."))
                text = f"`mem0` is one source, not {' and '.join(f'`{kind}`' for kind in kinds)}"
                self.problems.add(where, text)
            for kind in SOURCES:
                if kind in kinds:
                    return kind
        if not self.env.get("MEM0_API_KEY", "").strip():
            return None
        base_url = self.env.get("MEM0_BASE_URL", "").strip().rstrip("/")
        return "platform" if base_url in ("", PLATFORM) else "server"

    def oss_config(self) -> str | None:
        node = self.find("mem0.oss.config")
        if node is None:
            where = self.written["mem0.oss"].where if "mem0.oss" in self.written else "options"
            hint = "name the file that Memory.from_config reads, or `default`"
            self.problems.add(where, "`mem0.oss` needs `config`", hint=hint)
            return None
        return str(node.value) if node.value in ("-", "default") else str(self.path_of("mem0.oss.config", node))

    def patterns(self) -> tuple[str, ...]:
        node = self.find("mem0.files")
        if node is None:
            hint = "name them with --from, or under `mem0: {files: […]}`"
            self.problems.add("options", "the source is files, but none are named", hint=hint)
            return ()
        listed = items(node, "`mem0.files`", self.problems)
        if not listed and isinstance(node.value, tuple):
            self.problems.add(node.where, "`mem0.files` is empty")
        return tuple(str(self.path_of("mem0.files", one)) for one in listed)

    def find(self, key: str) -> Node | None:
        """What was given for a key, the strongest layer first; in the file's text variables are filled in."""
        node = self.options.get(key) or self.variables.get(key)
        if node is not None:
            return node
        node = self.written.get(key)
        if node is None or not isinstance(node.value, tuple):
            return self.expanded(key, node)
        filled = [self.expanded(key, one) for one in node.value]
        return Node(tuple(one for one in filled if one is not None), node.where, node.key_where)

    def expanded(self, key: str, node: Node | None) -> Node | None:
        if node is None or not isinstance(node.value, str) or "${" not in node.value:
            return node
        if "${" in _VARIABLE.sub("", node.value):
            text = f"`{key}` has a `${{` that names no variable"
            self.problems.add(node.where, text, hint="a variable is written ${NAME}")
            return None
        names = _VARIABLE.findall(node.value)
        unset = next((name for name in names if not self.env.get(name, "").strip()), None)
        if unset is None:
            text = _VARIABLE.sub(lambda found: self.env[found[1]].strip(), node.value)
            return Node(text, node.where, node.key_where, text)
        text = f"`{key}` needs {unset}, which is not set"
        if key.endswith(_LAZY):
            self.reasons[key] = f"{node.where}: {text}"
        else:
            self.problems.add(node.where, text)
        return None

    def why(self, section: str) -> dict[str, str]:
        return {key.rpartition(".")[2]: why for key, why in self.reasons.items() if key.startswith(f"{section}.")}

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """A text that `parse` turns into what is meant; the text itself is never repeated in a message."""
        node = self.find(key)
        if node is None:
            return None
        text = node.raw if isinstance(node.value, int | float) else node.value
        if isinstance(node.value, bool) or not isinstance(text, str) or not text.strip():
            self.problems.add(node.where, f"`{key}` must be text")
            return None
        try:
            return parse(text.strip())
        except ValueError as error:
            self.problems.add(node.where, f"`{key}` {error}")
            return None

    def key(self, key: str) -> Secret | None:
        """A key from the environment, or from a file that the settings name; never from the settings themselves."""
        node = self.variables.get(key)
        if node is None:
            node = self.written.get(key)
            if node is None:
                return None
            if isinstance(node.value, Mapping):
                return self.key_file(key, node)
            if not isinstance(node.value, str) or not _VARIABLE.fullmatch(node.value.strip()):
                variable = "MEM0_API_KEY" if key.startswith("mem0") else "SPECTRON_API_KEY"
                hint = f'write api_key: "${{{variable}}}", or api_key: {{file: FILE}}'
                self.problems.add(node.where, f"`{key}` must not hold the key itself", hint=hint)
                return None
        return self.parsed(key, parse_key)

    def key_file(self, key: str, node: Node) -> Secret | None:
        given = entries(node, ("file",), f"`{key}`", self.problems)
        file = self.expanded(key, given.get("file"))
        if file is None:
            if not given:
                self.problems.add(node.where, f"`{key}` needs `file`")
            return None
        path = self.path_of(key, file)
        try:
            return read_key(path)
        except ValueError as error:
            self.reasons[key] = f"{node.where}: the key file {shown(path)} {error}"
            return None

    def path(self, key: str) -> Path | None:
        node = self.find(key)
        return None if node is None else self.path_of(key, node)

    def path_of(self, key: str, node: Node) -> Path:
        """A path: of the file relative to it, of an option to the working directory."""
        text = text_of(node, f"`{key}`", self.problems)
        if "\0" in text:
            self.problems.add(node.where, f"`{key}` is no path")
        home = self.env.get("HOME", "") if text.startswith("~/") else ""
        if home:
            return Path(home) / text[2:]
        return Path(text) if key in self.options else self.folder / text

    def word(self, key: str, known: tuple[str, ...]) -> str:
        node = self.find(key)
        return known[0] if node is None else choice(node, known, f"`{key}`", self.problems)

    def whole(self, key: str, default: T, *, least: int, most: int | None = None) -> int | T:
        node = self.find(key)
        if node is None:
            return default
        return whole_number(node, f"`{key}`", self.problems, least=least, most=most)

    def above_zero(self, key: str) -> float | None:
        node = self.find(key)
        value = _float(node)
        if node is not None and (value is None or value <= 0):
            self.problems.add(node.where, f"`{key}` must be a number above 0, not {node.kind}")
        return value

    def share(self, key: str, default: T) -> float | T:
        node = self.find(key)
        if node is None:
            return default
        value = _float(node)
        if value is None or not 0 <= value <= 1:
            self.problems.add(node.where, f"`{key}` must be a share from 0 to 1, not {node.kind}")
            return default
        return value

    def seconds(self, key: str, default: float, *, zero: bool = False) -> float:
        """A duration; a bare number is seconds."""
        node = self.find(key)
        if node is None:
            return default
        value = _float(node)
        if value is None:
            value = self.parsed(key, parse_duration)
        if value is not None and (value < 0 or (value == 0 and not zero)):
            self.problems.add(node.where, f"`{key}` must be longer than nothing")
        return default if value is None else value


def _float(node: Node | None) -> float | None:
    if node is None or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    value = float(node.value)
    return value if math.isfinite(value) else None
