"""The settings as everything else sees them: frozen, and with keys that are never printed."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, KeyRefused

DEFAULT_FILE = Path("spectron-migrate.yaml")

SourceKind = Literal["oss", "platform", "server", "files"]
SOURCES: tuple[SourceKind, ...] = ("oss", "platform", "server", "files")


class Secret:
    """A key that is never printed, logged or pickled; `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header of a request only."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        mine = self._value.encode()
        return isinstance(other, Secret) and hmac.compare_digest(mine, other._value.encode())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __hash__(self) -> int:
        return hash(("Secret", self._value))


@dataclass(frozen=True, slots=True)
class SpectronAccess:
    """Where Spectron is, and the key to it: complete."""

    endpoint: str
    context: str
    api_key: Secret
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SpectronSettings:
    """Where Spectron is; None for what is not set."""

    endpoint: str | None = None
    """Scheme, host and optional prefix, without `/api/v1` and without a slash at the end."""
    context: str | None = None
    api_key: Secret | None = None
    timeout_s: float = 120.0
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a setting that was meant to be there is missing, by its name."""

    def require(self) -> SpectronAccess:
        """The complete access; raises InputError without an endpoint or context, KeyRefused without a key."""
        missing = [name for name in ("endpoint", "context") if getattr(self, name) is None]
        if self.endpoint is None or self.context is None:
            problems = [self.reasons.get(name, f"no Spectron {name} is set") for name in missing]
            names = " and ".join(f"SPECTRON_{name.upper()}" for name in missing)
            them = "it" if len(missing) == 1 else "them"
            raise InputError.of_all(problems, hint=f"set {names}, or write {them} into {DEFAULT_FILE}")
        if self.api_key is None:
            raise KeyRefused(self.reasons.get("api_key", "no Spectron key is set"), hint="set SPECTRON_API_KEY")
        return SpectronAccess(self.endpoint, self.context, self.api_key, self.timeout_s)


@dataclass(frozen=True, slots=True)
class Mem0Settings:
    """The Mem0 that is read."""

    kind: SourceKind
    config: str | None = None
    """oss: a path, `-` for standard input, or `default` for what `Memory()` opens."""
    base_url: str | None = None
    api_key: Secret | None = None
    files: tuple[str, ...] = ()
    """files: paths or patterns."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a setting that was meant to be there is missing, by its name."""

    def require_base_url(self) -> str:
        """The address of the platform or server; raises InputError without one."""
        if self.base_url is None:
            text = self.reasons.get("base_url", "no address of the Mem0 server is set")
            raise InputError(text, hint="set MEM0_BASE_URL")
        return self.base_url

    def require_key(self) -> Secret:
        """The key of the platform or server; raises KeyRefused without one."""
        if self.api_key is None:
            raise KeyRefused(self.reasons.get("api_key", "no Mem0 key is set"), hint="set MEM0_API_KEY")
        return self.api_key


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """The speed of a replay, and when it stops; None is no limit."""

    max_in_flight: int = 64
    max_rps: float | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_refused: int = 0


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """The queries of dual-verify, and what it tolerates."""

    queries: Path | None = None
    top_k: int = 5
    margin: float = 0.02
    """How much lower Spectron's success may be than Mem0's, as a share."""
    min_overlap: float | None = None
    reports: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When an application's process goes back to Mem0 by itself (docs/protocol.md, Cutover)."""

    error_rate: float = 0.02
    p95_s: float = 0.8
    window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class CutoverSettings:
    """How the application is moved to Spectron."""

    catch_up: Literal["follow", "outbox"] = "follow"
    settle_s: float = 60.0
    max_lag_s: float = 60.0
    reconcile_s: float = 600.0
    """How often a follower reads all of Mem0 and compares it with the ledger, whatever seems to have changed."""
    soak_s: float = 86400.0
    """How long all users must have been read from Spectron before `cutover complete`."""
    max_age_s: float = 86400.0
    shadow: float = 0.0
    """Share of searches that also ask Spectron in the background."""
    capture: Literal["memories", "messages"] = "memories"
    """What the outbox captures: the memories that Mem0 stored, or the messages that it was given."""
    guard: GuardSettings = field(default_factory=GuardSettings)


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """What the adapter shows an application."""

    score: Literal["rank", "spectron"] = "rank"
    """The `score` of a result that Spectron found: its rank as a number from 1 down, or Spectron's own score."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where replay exports its metrics; nowhere without `port` and `textfile`."""

    port: int | None = None
    host: str = "127.0.0.1"
    """The address that `port` is opened on."""
    textfile: Path | None = None
    """A file for node_exporter's textfile collector."""

    @property
    def is_on(self) -> bool:
        """Whether metrics are exported."""
        return self.port is not None or self.textfile is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a command needs, apart from its mapping and its own options."""

    mem0: Mem0Settings | None
    spectron: SpectronSettings
    mapping: Path | None
    dump: Path
    state: Path | PostgresLocation
    replay: ReplaySettings
    verify: VerifySettings
    cutover: CutoverSettings
    file: Path | None
    """The settings file that was read, if any."""
    state_is_named: bool = False
    """Whether an option, the environment or the file names the state, so that it is not the default."""
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
