"""What goes wrong with a service and the network before it, on purpose: a layer around an ASGI application.

Every fault is three answers: is the work done, what becomes of the idempotency key, and what does the client
see. `FAULTS` names those that are of use; `Faults` says which one a request gets, by a plan, by chance from a
seed, or by a function, and may be changed at any time. With an engine attached it also moves the server's
clock and changes how it reads what the published contract leaves open.

A server that was started with a weather takes a new one while it runs: `PUT /faults` with a `Weather` as JSON.
"""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spectron_migrate.local.engine import Api, Engine, Reading
from spectron_migrate.local.failures import ApiError
from spectron_migrate.local.idempotency import IN_FLIGHT
from spectron_migrate.local.web import failure, reply

CONTROL = "/faults"
TRANSPORT = "spectron.transport"
"""The ASGI extension through which a fault reaches the connection itself."""
REQUEST = "spectron.request"
"""The extension in which the application behind the layer finds the request as it came, with its key."""


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer that needs no work."""

    status: int
    message: str
    retry_after: str | None = None
    """The header as it is sent, so that a test can send nonsense."""


UNKNOWN = Canned(500, "unknown error")
Told = Literal["answer", "cut", "cut in headers", "garbage", "half", "nothing"] | Canned


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    work: Literal["done", "not done", "done later", "done in part"] = "done"
    """`done later`: after some more requests; until then the key is in flight. `done in part`: of a batch, the
    first half; of anything else, nothing."""
    key: Literal["kept", "forgotten", "stuck"] = "kept"
    """Stuck: 409 in flight until the layer is gone, as after a worker whose lock outlives it."""
    told: Told = "answer"


FAULTS: dict[str, Fault] = {
    "none": Fault(),
    "400": Fault("not done", told=Canned(400, "not this one")),
    "429": Fault("not done", told=Canned(429, "slow down", "0")),
    "429_bare": Fault("not done", told=Canned(429, "token budget spent")),
    "503": Fault("not done", told=Canned(503, "too many requests in flight", "0")),
    "503_bare": Fault("not done", told=Canned(503, "unavailable")),
    "500_before": Fault("not done", told=UNKNOWN),
    "500_before_stuck": Fault("not done", "stuck", UNKNOWN),
    "500_after": Fault(told=UNKNOWN),
    "500_after_released": Fault(key="forgotten", told=UNKNOWN),
    "500_after_stuck": Fault(key="stuck", told=UNKNOWN),
    "cut_before": Fault("not done", told="cut"),
    "cut_after": Fault(told="cut"),
    "cut_after_released": Fault(key="forgotten", told="cut"),
    "cut_in_headers": Fault(told="cut in headers"),
    "cut_in_batch": Fault("done in part", "forgotten", "cut"),
    "late": Fault("done later", told="cut"),
    "garbage": Fault(told="garbage"),
    "half_answer": Fault(told="half"),
    "hang_before": Fault("not done", told="nothing"),
    "hang": Fault(told="nothing"),
    "forgets": Fault(key="forgotten"),
}
"""By name; `forgets` does the work anew although the key is known."""

PASSING = tuple(name for name in FAULTS if name not in ("none", "400", "hang", "hang_before") and "stuck" not in name)
"""Those that end by themselves and take no time: what a weather draws from unless it is told."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came by."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def key(self) -> tuple[str, str] | None:
        """Whose idempotency key it carries, and which."""
        key = self.headers.get("idempotency-key")
        return (self.headers.get("authorization", ""), key) if key else None

    @property
    def writes_fact(self) -> bool:
        """Whether it stores memories."""
        return self.method == "POST" and self.path.endswith(("/facts", "/facts/batch"))


@dataclass(frozen=True, slots=True)
class Weather:
    """Which faults are to be expected."""

    plan: Sequence[str] = ()
    """Names for the writes of facts to come, one by one; then chance decides."""
    chance: float = 0.0
    """How likely a fault is, from 0 to 1, for each request."""
    faults: Sequence[str] = PASSING
    """What chance draws from."""
    seed: int = 0
    ahead_s: float = 0.0
    """How far the server's clock is ahead of the real one."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `engine.Reading` that differ from those of the start."""

    def __post_init__(self) -> None:
        """Raises ValueError for a fault or a reading that does not exist."""
        strange = sorted({*self.plan, *self.faults} - set(FAULTS))
        strange += sorted(set(self.reading) - set(Reading.__slots__))
        if strange:
            raise ValueError(f"no such fault or reading: {', '.join(strange)}")


Choose = Callable[[Request], str | Fault]


class Faults:
    """Decides what each request gets."""

    def __init__(self, weather: Weather | None = None, *, choose: Choose | None = None) -> None:
        """`choose` may be exchanged at any time; without one the weather decides."""
        self.choose: Choose = choose or self._by_weather
        self.counts: Counter[str] = Counter()
        """How often each fault was played, by name."""
        self._engine: Engine | None = None
        self._reading = Reading()
        self.turn(weather or Weather())

    def turn(self, weather: Weather) -> None:
        """Take another weather from now on."""
        self.weather = weather
        self._plan = deque(weather.plan)
        self._dice = random.Random(weather.seed)
        if self._engine is not None:
            self._engine.reading = replace(self._reading, **weather.reading)

    def attach(self, engine: Engine) -> None:
        """Move the clock of an engine, and change its reading, as the weather says."""
        clock = engine.clock
        engine.clock = lambda: clock() + timedelta(seconds=self.weather.ahead_s)
        self._engine, self._reading = engine, engine.reading
        self.turn(self.weather)

    @property
    def api(self) -> Api:
        """The generation whose form errors have."""
        return self._engine.settings.api if self._engine is not None else "0.0.0"

    def next(self, request: Request) -> Fault:
        """What a request gets."""
        chosen = self.choose(request)
        self.counts[chosen if isinstance(chosen, str) else "other"] += 1
        return FAULTS[chosen] if isinstance(chosen, str) else chosen

    def delay(self) -> int:
        """How many requests late work lets pass before it."""
        return self._dice.randint(1, 4)

    def _by_weather(self, request: Request) -> str:
        if self._plan and request.writes_fact:
            return self._plan.popleft()
        if self.weather.faults and self._dice.random() < self.weather.chance:
            return self._dice.choice(list(self.weather.faults))
        return "none"


class FaultLayer:
    """The ASGI application that plays them."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        """Wrap an application."""
        self._app = app
        self._faults = faults
        self._numbers = 0
        self._stuck: set[tuple[str, str]] = set()
        self._later: list[tuple[int, _Exchange]] = []
        """What is put off, and up to which request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        if not await exchange.read(self._numbers):
            return
        self._numbers += 1
        if scope["path"] == CONTROL:
            await exchange.say(self._control(exchange.request))
            return
        await self._play(exchange, self._faults.next(exchange.request))

    async def _play(self, exchange: _Exchange, fault: Fault) -> None:
        key = exchange.request.key
        await self._catch_up(exchange.request.number)
        if key is not None and (key in self._stuck or any(key == late.request.key for _, late in self._later)):
            await exchange.tell(Canned(409, IN_FLIGHT), self._faults.api)
            return
        if fault.key == "stuck" and key is not None:
            self._stuck.add(key)
        if fault.work == "done later":
            self._later.append((exchange.request.number + self._faults.delay(), exchange))
        elif fault.work == "done in part" and exchange.halve():
            await exchange.work(self._app, with_key=False)
        elif fault.work == "done":
            await exchange.work(self._app, with_key=fault.key == "kept")
        await exchange.tell(fault.told, self._faults.api)

    async def _catch_up(self, number: int) -> None:
        """Do what was put off long enough."""
        due = [late for last, late in self._later if last <= number]
        self._later = [(last, late) for last, late in self._later if last > number]
        for late in due:
            await late.work(self._app, with_key=True)

    def _control(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self._faults.turn(Weather(**json.loads(request.body)))
            except (ValueError, TypeError) as error:
                return reply({"message": str(error)}, 400)
        return reply({"weather": asdict(self._faults.weather), "counts": dict(self._faults.counts)})


class _Exchange:
    """One request, and what its client sees of the answer."""

    request: Request

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answer: list[Message] = []

    async def read(self, number: int) -> bool:
        """Read the request whole; False where the client has gone before that."""
        body, more = b"", True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._scope["headers"]}
        self.request = Request(number, self._scope["method"], self._scope["path"], headers, body)
        return True

    def halve(self) -> bool:
        """Leave away the second half of a batch; False where it is none of two or more messages."""
        if not self.request.path.endswith("/facts/batch"):
            return False
        body = json.loads(self.request.body)
        body["messages"] = body["messages"][: len(body["messages"]) // 2]
        self.request = replace(self.request, body=json.dumps(body).encode())
        length = (b"content-length", str(len(self.request.body)).encode())
        self._scope["headers"] = [pair for pair in self._scope["headers"] if pair[0] != b"content-length"] + [length]
        return bool(body["messages"])

    async def work(self, app: ASGIApp, *, with_key: bool) -> None:
        """Let the application do its work, and keep the answer."""
        given = iter([{"type": "http.request", "body": self.request.body, "more_body": False}])

        async def receive() -> Message:
            return next(given, {"type": "http.disconnect"})

        async def keep(message: Message) -> None:
            self._answer.append(message)

        kept = [pair for pair in self._scope["headers"] if with_key or pair[0] != b"idempotency-key"]
        extensions = {**self._scope.get("extensions", {}), REQUEST: self.request}
        try:
            await app({**self._scope, "headers": kept, "extensions": extensions}, receive, keep)
        except (ConnectionError, EOFError):
            self._answer = []  # a relay whose server is gone

    async def say(self, response: Response) -> None:
        """An answer of our own."""
        await response(self._scope, self._receive, self._send)

    async def tell(self, told: Told, api: Api) -> None:
        """Show the client its side of the fault."""
        if isinstance(told, Canned):
            response = failure(ApiError(told.status, told.message), api, self.request.path)
            if told.retry_after is not None:
                response.headers["retry-after"] = told.retry_after
            await self.say(response)
        elif told == "answer" and self._answer:
            for message in self._answer:
                await self._send(message)
        else:
            await self._break(told)

    async def _break(self, told: str) -> None:
        transport = self._scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            raise ConnectionResetError(told)
        if told != "nothing":
            whole = self._on_the_wire() if self._answer and told in ("cut in headers", "half") else b""
            head = whole.index(b"\r\n\r\n") + 4 if whole else 0
            shown = {"cut in headers": whole[: head // 2], "half": whole[: head + (len(whole) - head) // 2]}
            transport.write(shown.get(told, b"\x00\x01 nonsense\r\n\r\n" if told == "garbage" else b""))
            transport.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _on_the_wire(self) -> bytes:
        start, *parts = self._answer
        lines = [f"HTTP/1.1 {start['status']} so".encode()]
        lines += [name + b": " + value for name, value in start["headers"]]
        return b"\r\n".join(lines) + b"\r\n\r\n" + b"".join(part.get("body", b"") for part in parts)
