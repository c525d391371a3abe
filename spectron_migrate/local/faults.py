"""Injected faults of a service and its network: a layer around an ASGI application.

A fault says whether the work is done, what becomes of the idempotency key, and what the client sees. `FAULTS` are the
named ones. `Faults` chooses one for each request: by a plan, at random from a seed, or by a function, and can be
changed at any time. Attached to an engine, it also moves the server's clock and changes how the server reads what the
published contract leaves open.

A server that was started with `FaultSettings` takes new ones while it runs: `PUT /faults` with the fields as JSON.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spectron_migrate.local.engine import NEWEST, Api, ContractReading, Engine
from spectron_migrate.local.errors import ApiError
from spectron_migrate.local.idempotency import IN_FLIGHT
from spectron_migrate.local.web import failure, reply

CONTROL = "/faults"
TRANSPORT = "spectron.transport"
"""The ASGI extension through which a fault reaches the connection itself."""
REQUEST = "spectron.request"
"""The extension that gives the application the original request, with its idempotency key."""


@dataclass(frozen=True, slots=True)
class CannedAnswer:
    """An answer without any work."""

    status: int
    message: str
    retry_after: str | None = None
    """The header as it is sent; a test may send nonsense."""


UNKNOWN = CannedAnswer(500, "unknown error")
ClientSees = Literal["answer", "cut", "cut in headers", "garbage", "half", "nothing"] | CannedAnswer


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    work: Literal["done", "not done", "done later", "done in part"] = "done"
    """`done later`: a few requests later, and the key is in flight until then. `done in part`: the first half of a
    batch, and nothing of any other request."""
    key: Literal["kept", "forgotten", "stuck"] = "kept"
    """`stuck`: 409 in flight for as long as the layer lives, as after a worker whose lock outlives it."""
    shown: ClientSees = "answer"
    every_key: Literal["kept", "forgotten"] = "kept"
    """`forgotten`: after the work the server forgets the keys of all requests. Where the client sees no answer it
    restarts: what was stuck, or to be done later, is lost."""


FAULTS: dict[str, Fault] = {
    "none": Fault(),
    "400": Fault("not done", shown=CannedAnswer(400, "not this one")),
    "429": Fault("not done", shown=CannedAnswer(429, "slow down", "0")),
    "429_bare": Fault("not done", shown=CannedAnswer(429, "token budget spent")),
    "503": Fault("not done", shown=CannedAnswer(503, "too many requests in flight", "0")),
    "503_bare": Fault("not done", shown=CannedAnswer(503, "unavailable")),
    "500_before": Fault("not done", shown=UNKNOWN),
    "500_before_stuck": Fault("not done", "stuck", UNKNOWN),
    "500_after": Fault(shown=UNKNOWN),
    "500_after_released": Fault(key="forgotten", shown=UNKNOWN),
    "500_after_stuck": Fault(key="stuck", shown=UNKNOWN),
    "cut_before": Fault("not done", shown="cut"),
    "cut_after": Fault(shown="cut"),
    "cut_after_released": Fault(key="forgotten", shown="cut"),
    "cut_in_headers": Fault(shown="cut in headers"),
    "cut_in_batch": Fault("done in part", "forgotten", "cut"),
    "late": Fault("done later", shown="cut"),
    "garbage": Fault(shown="garbage"),
    "half_answer": Fault(shown="half"),
    "hang_before": Fault("not done", shown="nothing"),
    "hang": Fault(shown="nothing"),
    "forgets": Fault(key="forgotten"),
    "restart_without_keys": Fault(shown="cut", every_key="forgotten"),
    "restart_without_keys_before": Fault("not done", shown="cut", every_key="forgotten"),
    "failover_without_keys": Fault(every_key="forgotten"),
}
"""By name; `forgets` does the work again although the key is known."""

TRANSIENT_FAULTS = tuple(
    name for name in FAULTS if name not in ("none", "400", "hang", "hang_before") and "stuck" not in name
)
"""Faults that pass by themselves and take no time: the default for random ones."""


_PREVIEW = re.compile(rb'"infer":\s*"preview"')


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that reached the layer."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def key(self) -> tuple[str, str] | None:
        """The authorization and the idempotency key; None without a key."""
        key = self.headers.get("idempotency-key")
        return (self.headers.get("authorization", ""), key) if key else None

    @property
    def writes_fact(self) -> bool:
        """Whether it writes facts. A preview writes nothing."""
        return self.method == "POST" and self.path.endswith(("/facts", "/facts/batch")) and not self.is_preview

    @property
    def is_preview(self) -> bool:
        """Whether it asks what a write would extract."""
        return self.path.endswith("/facts") and _PREVIEW.search(self.body) is not None


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """Which faults occur."""

    plan: Sequence[str] = ()
    """Faults of the next writes of facts, in order; after them chance decides."""
    chance: float = 0.0
    """Probability of a fault, from 0 to 1, for each request."""
    faults: Sequence[str] = TRANSIENT_FAULTS
    """Faults to draw from at random."""
    seed: int = 0
    ahead_s: float = 0.0
    """Seconds by which the server's clock is ahead of the real one."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `engine.ContractReading` that replace those of the start."""

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown fault or reading."""
        unknown = sorted({*self.plan, *self.faults} - set(FAULTS))
        unknown += sorted(set(self.reading) - set(ContractReading.__slots__))
        if unknown:
            raise ValueError(f"no such fault or reading: {', '.join(unknown)}")


Choose = Callable[[SeenRequest], str | Fault]


class Faults:
    """Chooses the fault of each request."""

    def __init__(self, settings: FaultSettings | None = None, *, choose: Choose | None = None) -> None:
        """`choose` can be replaced at any time; without it the settings decide."""
        self.choose: Choose = choose or self._by_settings
        self.counts: Counter[str] = Counter()
        """How often each fault occurred, by name."""
        self.forgotten = 0
        """How often the server has forgotten all keys: each time the application sees other keys."""
        self._engine: Engine | None = None
        self._reading = ContractReading()
        self.change_faults(settings or FaultSettings())

    def change_faults(self, settings: FaultSettings) -> None:
        """Use other settings from now on."""
        self.settings = settings
        self._plan = deque(settings.plan)
        self._random = random.Random(settings.seed)
        if self._engine is not None:
            self._engine.reading = replace(self._reading, **settings.reading)

    def attach(self, engine: Engine) -> None:
        """Move the clock of an engine and change its reading, as the settings say."""
        clock = engine.clock
        engine.clock = lambda: clock() + timedelta(seconds=self.settings.ahead_s)
        self._engine, self._reading = engine, engine.reading
        self.change_faults(self.settings)

    @property
    def api(self) -> Api:
        """The API generation in whose form errors are answered."""
        return self._engine.settings.api if self._engine is not None else NEWEST

    def next(self, request: SeenRequest) -> Fault:
        """The fault of a request."""
        chosen = self.choose(request)
        self.counts[chosen if isinstance(chosen, str) else "other"] += 1
        return FAULTS[chosen] if isinstance(chosen, str) else chosen

    def delay(self) -> int:
        """After how many requests late work is done."""
        return self._random.randint(1, 4)

    def _by_settings(self, request: SeenRequest) -> str:
        if self._plan and request.writes_fact:
            return self._plan.popleft()
        if self.settings.faults and self._random.random() < self.settings.chance:
            return self._random.choice(list(self.settings.faults))
        return "none"


class FaultLayer:
    """The ASGI application that injects the faults."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults
        self._numbers = 0
        self._stuck: set[tuple[str, str]] = set()
        self._later: list[tuple[int, _Exchange]] = []
        """Number of the request after which the work is done, and the work."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        if not await exchange.read(self._numbers):
            return
        self._numbers += 1
        if scope["path"] == CONTROL:
            await exchange.answer_with(self._control(exchange.request))
            return
        await self._inject(exchange, self._faults.next(exchange.request))

    async def _inject(self, exchange: _Exchange, fault: Fault) -> None:
        key = exchange.request.key
        await self._catch_up(exchange.request.number)
        if key is not None and (key in self._stuck or any(key == late.request.key for _, late in self._later)):
            await exchange.show(CannedAnswer(409, IN_FLIGHT), self._faults.api)
            return
        if fault.key == "stuck" and key is not None:
            self._stuck.add(key)
        if fault.work == "done later":
            self._later.append((exchange.request.number + self._faults.delay(), exchange))
        elif fault.work == "done in part" and exchange.halve():
            await exchange.work(self._app, key_prefix=None)
        elif fault.work == "done":
            await exchange.work(self._app, key_prefix=self._key_prefix if fault.key == "kept" else None)
        if fault.every_key == "forgotten":
            self._forget_keys(restarts=fault.shown != "answer")
        await exchange.show(fault.shown, self._faults.api)

    @property
    def _key_prefix(self) -> bytes:
        return b"%d-" % self._faults.forgotten if self._faults.forgotten else b""

    def _forget_keys(self, *, restarts: bool) -> None:
        self._faults.forgotten += 1
        if restarts:
            self._stuck.clear()
            self._later.clear()

    async def _catch_up(self, number: int) -> None:
        """Do the late work that is due."""
        due = [late for last, late in self._later if last <= number]
        self._later = [(last, late) for last, late in self._later if last > number]
        for late in due:
            await late.work(self._app, key_prefix=self._key_prefix)

    def _control(self, request: SeenRequest) -> Response:
        if request.method == "PUT":
            try:
                self._faults.change_faults(FaultSettings(**json.loads(request.body)))
            except (ValueError, TypeError) as error:
                return reply({"message": str(error)}, 400)
        return reply({"settings": asdict(self._faults.settings), "counts": dict(self._faults.counts)})


class _Exchange:
    """One request, its answer, and what the client sees of it."""

    request: SeenRequest

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answer: list[Message] = []

    async def read(self, number: int) -> bool:
        """Read the whole request; False if the client disconnected before its end."""
        body, more = b"", True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._scope["headers"]}
        self.request = SeenRequest(number, self._scope["method"], self._scope["path"], headers, body)
        return True

    def halve(self) -> bool:
        """Drop the second half of a batch; False if it is no batch of at least two messages."""
        if not self.request.path.endswith("/facts/batch"):
            return False
        body = json.loads(self.request.body)
        body["messages"] = body["messages"][: len(body["messages"]) // 2]
        self.request = replace(self.request, body=json.dumps(body).encode())
        length = (b"content-length", str(len(self.request.body)).encode())
        self._scope["headers"] = [pair for pair in self._scope["headers"] if pair[0] != b"content-length"] + [length]
        return bool(body["messages"])

    async def work(self, app: ASGIApp, *, key_prefix: bytes | None) -> None:
        """Let the application do its work and keep its answer.

        `key_prefix`: what it sees before the idempotency key; None to hide the key.
        """
        given = iter([{"type": "http.request", "body": self.request.body, "more_body": False}])

        async def receive() -> Message:
            return next(given, {"type": "http.disconnect"})

        async def keep(message: Message) -> None:
            self._answer.append(message)

        kept = [
            (name, (key_prefix or b"") + value if name == b"idempotency-key" else value)
            for name, value in self._scope["headers"]
            if key_prefix is not None or name != b"idempotency-key"
        ]
        extensions = {**self._scope.get("extensions", {}), REQUEST: self.request}
        try:
            await app({**self._scope, "headers": kept, "extensions": extensions}, receive, keep)
        except (ConnectionError, EOFError):
            self._answer = []  # the application is a relay, and its server is gone

    async def answer_with(self, response: Response) -> None:
        """Answer without the application."""
        await response(self._scope, self._receive, self._send)

    async def show(self, shown: ClientSees, api: Api) -> None:
        """Show the client what the fault lets it see."""
        if isinstance(shown, CannedAnswer):
            response = failure(ApiError(shown.status, shown.message), api, self.request.path)
            if shown.retry_after is not None:
                response.headers["retry-after"] = shown.retry_after
            await self.answer_with(response)
        elif shown == "answer" and self._answer:
            for message in self._answer:
                await self._send(message)
        else:
            await self._break(shown)

    async def _break(self, shown: str) -> None:
        transport = self._scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            raise ConnectionResetError(shown)
        if shown != "nothing":
            whole = self._on_the_wire() if self._answer and shown in ("cut in headers", "half") else b""
            head = whole.index(b"\r\n\r\n") + 4 if whole else 0
            parts = {"cut in headers": whole[: head // 2], "half": whole[: head + (len(whole) - head) // 2]}
            transport.write(parts.get(shown, b"\x00\x01 nonsense\r\n\r\n" if shown == "garbage" else b""))
            transport.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _on_the_wire(self) -> bytes:
        start, *parts = self._answer
        lines = [f"HTTP/1.1 {start['status']} so".encode()]
        lines += [name + b": " + value for name, value in start["headers"]]
        return b"\r\n".join(lines) + b"\r\n\r\n" + b"".join(part.get("body", b"") for part in parts)
