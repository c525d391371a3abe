"""Settings from options, environment and file: one function per section; all problems are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from spectron_migrate.settings.layers import Layers
from spectron_migrate.settings.state import ENVIRONMENT, state_of
from spectron_migrate.settings.strict_yaml import Node, Problems, check_version, entries, nearest, read_yaml
from spectron_migrate.settings.types import (
    DEFAULT_FILE,
    SOURCES,
    AdapterSettings,
    CutoverSettings,
    GuardSettings,
    Mem0Settings,
    MetricsSettings,
    ReplaySettings,
    Settings,
    SourceKind,
    SpectronSettings,
    VerifySettings,
)
from spectron_migrate.settings.values import parse_context, parse_endpoint, setting_names

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
        **dict.fromkeys(("catch_up", "settle", "max_lag", "reconcile", "soak", "max_age", "shadow", "capture")),
        "guard": dict.fromkeys(("error_rate", "p95", "window")),
    },
    "adapter": {"score": None},
    "metrics": dict.fromkeys(("port", "host", "textfile")),
}
"""Every key of the file; a mapping is a section."""


def load_settings(path: Path | None, *, env: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """The settings of a file, the environment and a command's options.

    With None as path, `spectron-migrate.yaml` in the working directory is read if it exists. `overrides` holds the
    options under dotted names (`dump`, `replay.max_in_flight`, `mem0.oss.config`; `mem0.source` selects a kind of
    source); None stands for an option that was not given. Paths in the file are relative to it.

    Raises InputError naming every problem with file and line. A missing setting is not a problem here: `require`
    of its section raises when a command needs it.
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
    options = ["mem0.source", *(name for name in setting_names(SCHEMA) if not name.endswith("api_key"))]
    layers = Layers(written, path, env, overrides, options, problems)
    if named := env.get(ENVIRONMENT, "").strip():
        layers.variables["state"] = Node(named, ENVIRONMENT)
    settings = Settings(
        mem0=_mem0(layers),
        spectron=_spectron(layers),
        mapping=layers.path("mapping"),
        dump=layers.path("dump") or Path("dump"),
        state=state_of(layers),
        replay=_replay(layers),
        verify=_verify(layers),
        cutover=_cutover(layers),
        adapter=_adapter(layers),
        metrics=_metrics(layers),
        file=path,
        state_is_named=layers.find("state") is not None,
    )
    problems.refuse()
    return settings


def _flatten(node: Node, schema: Mapping[str, Any], prefix: str, found: dict[str, Node], problems: Problems) -> None:
    """Put sections and values into `found` under dotted names; null counts as not given."""
    what = f"`{prefix[:-1]}`" if prefix else "the settings"
    for key, child in entries(node, tuple(schema), what, problems).items():
        if child.value is None:
            continue
        found[prefix + key] = child
        if isinstance(schema[key], Mapping):
            _flatten(child, schema[key], f"{prefix}{key}.", found, problems)


def _spectron(layers: Layers) -> SpectronSettings:
    return SpectronSettings(
        endpoint=layers.parsed("spectron.endpoint", parse_endpoint),
        context=layers.parsed("spectron.context", parse_context),
        api_key=layers.key("spectron.api_key"),
        timeout_s=layers.seconds("spectron.timeout", 120.0),
        reasons=layers.reasons("spectron"),
    )


def _replay(layers: Layers) -> ReplaySettings:
    return ReplaySettings(
        max_in_flight=layers.whole("replay.max_in_flight", 64, least=1, most=1024),
        max_rps=layers.above_zero("replay.max_rps"),
        max_tokens=layers.whole("replay.max_tokens", None, least=1),
        max_seconds=layers.above_zero("replay.max_seconds"),
        max_refused=layers.whole("replay.max_refused", 0, least=0),
    )


def _verify(layers: Layers) -> VerifySettings:
    return VerifySettings(
        queries=layers.path("verify.queries"),
        top_k=layers.whole("verify.top_k", 5, least=1, most=50),
        margin=layers.share("verify.margin", 0.02),
        min_overlap=layers.share("verify.min_overlap", None),
        reports=tuple(layers.path_of("verify.reports", one) for one in layers.nodes("verify.reports")),
    )


def _cutover(layers: Layers) -> CutoverSettings:
    catch_up = layers.word("cutover.catch_up", ("follow", "outbox"))
    capture = layers.word("cutover.capture", ("memories", "messages"))
    if capture == "messages" and catch_up == "follow" and (node := layers.find("cutover.capture")) is not None:
        layers.problems.add(node.where, "`cutover.capture: messages` needs `cutover.catch_up: outbox`")
    return CutoverSettings(
        catch_up=cast(Literal["follow", "outbox"], catch_up),
        settle_s=layers.seconds("cutover.settle", 60.0, zero=True),
        max_lag_s=layers.seconds("cutover.max_lag", 60.0),
        reconcile_s=layers.seconds("cutover.reconcile", 600.0),
        soak_s=layers.seconds("cutover.soak", 86400.0, zero=True),
        max_age_s=layers.seconds("cutover.max_age", 86400.0),
        shadow=layers.share("cutover.shadow", 0.0),
        capture=cast(Literal["memories", "messages"], capture),
        guard=GuardSettings(
            error_rate=layers.share("cutover.guard.error_rate", 0.02),
            p95_s=layers.seconds("cutover.guard.p95", 0.8),
            window_s=layers.seconds("cutover.guard.window", 60.0),
        ),
    )


def _adapter(layers: Layers) -> AdapterSettings:
    score = layers.word("adapter.score", ("rank", "spectron"))
    return AdapterSettings(score=cast(Literal["rank", "spectron"], score))


def _metrics(layers: Layers) -> MetricsSettings:
    host = layers.find("metrics.host")
    if host is not None and (not isinstance(host.value, str) or not host.value.strip()):
        layers.problems.add(host.where, "`metrics.host` is not an address")
    return MetricsSettings(
        port=layers.whole("metrics.port", None, least=1, most=65_535),
        host="127.0.0.1" if host is None else str(host.value),
        textfile=layers.path("metrics.textfile"),
    )


def _mem0(layers: Layers) -> Mem0Settings | None:
    kind = _source_kind(layers)
    if kind is None:
        return None
    if kind == "oss":
        return Mem0Settings(kind, config=_oss_config(layers))
    if kind == "files":
        return Mem0Settings(kind, files=_file_patterns(layers))
    section = f"mem0.{kind}"
    for name, variable in (("base_url", "MEM0_BASE_URL"), ("api_key", "MEM0_API_KEY")):
        if value := layers.env.get(variable, "").strip():
            layers.variables[f"{section}.{name}"] = Node(value, variable)
    base_url = layers.parsed(f"{section}.base_url", parse_endpoint)
    if kind == "platform" and base_url is None and "base_url" not in layers.reasons(section):
        base_url = PLATFORM
    key = layers.key(f"{section}.api_key")
    return Mem0Settings(kind, base_url=base_url, api_key=key, reasons=layers.reasons(section))


def _source_kind(layers: Layers) -> SourceKind | None:
    """The kind of Mem0 that the options name, else the file, else the environment."""
    chosen = layers.options.get("mem0.source")
    if chosen is not None:
        word = "files" if chosen.value == "file" else chosen.value
        for kind in SOURCES:
            if kind == word:
                return kind
        layers.problems.add(chosen.where, f"unknown source {chosen.kind}, {nearest(chosen.raw, SOURCES)}")
        return None
    for layer in (layers.options, layers.written):
        kinds = sorted({key.split(".")[1] for key in layer if key.startswith("mem0.")})
        if len(kinds) > 1:
            where = next(node.where for key, node in layer.items() if key.startswith("mem0."))
            text = f"`mem0` must be one source, not {' and '.join(f'`{kind}`' for kind in kinds)}"
            layers.problems.add(where, text)
        for kind in SOURCES:
            if kind in kinds:
                return kind
    if not layers.env.get("MEM0_API_KEY", "").strip():
        return None
    base_url = layers.env.get("MEM0_BASE_URL", "").strip().rstrip("/")
    return "platform" if base_url in ("", PLATFORM) else "server"


def _oss_config(layers: Layers) -> str | None:
    node = layers.find("mem0.oss.config")
    if node is None:
        where = layers.written["mem0.oss"].where if "mem0.oss" in layers.written else "options"
        hint = "name the file that Memory.from_config reads, or `default`"
        layers.problems.add(where, "`mem0.oss` needs `config`", hint=hint)
        return None
    return str(node.value) if node.value in ("-", "default") else str(layers.path_of("mem0.oss.config", node))


def _file_patterns(layers: Layers) -> tuple[str, ...]:
    node = layers.find("mem0.files")
    if node is None:
        hint = "name them with --from, or under `mem0: {files: […]}`"
        layers.problems.add("options", "the source is files, but none is named", hint=hint)
        return ()
    patterns = layers.nodes("mem0.files")
    if not patterns and isinstance(node.value, tuple):
        layers.problems.add(node.where, "`mem0.files` is empty")
    return tuple(str(layers.path_of("mem0.files", one)) for one in patterns)
