"""What is certain about a request afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import textwrap
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from spectron_migrate import SpectronClient
from spectron_migrate.errors import Unreachable
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.rows import Turn
from spectron_migrate.spectron.wire import InDoubt, NotBegun
from tests.support.proxy import serving


def test_only_a_refused_connection_proves_that_nothing_was_sent() -> None:
    async def post(endpoint: str) -> None:
        async with SpectronApi(endpoint, "c", api_key="k", timeout_s=5) as api:
            await api.post_fact(b"{}", key="k")

    async def cut() -> None:
        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(NotBegun) as refused:
        asyncio.run(post("http://127.0.0.1:9"))
    assert "no connection to http://127.0.0.1:9/api/v1: connection refused" == refused.value.reason
    with pytest.raises(InDoubt):
        asyncio.run(cut())


SECRET = "sp-7f3a-Geheim+und/lang="


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 422, 429, 500, 503])
@pytest.mark.parametrize("spelling", ["json", "text", "quoted", "upper", "nested", "long s"])
def test_a_key_that_the_server_repeats_is_scrubbed(status: int, spelling: str) -> None:
    said = f"bad header Authorization: Bearer {SECRET}"
    bodies: dict[str, Response] = {
        "json": JSONResponse({"detail": said, "status": status}, status),
        "text": PlainTextResponse(said, status),
        "quoted": PlainTextResponse(quote(said, safe=""), status),
        "upper": JSONResponse({"message": said.upper()}, status),
        "long s": JSONResponse({"message": said.replace("s", "\u017f")}, status),
        "nested": JSONResponse({"sessionId": said, "error": {"headers": [{said: said}]}}, status),
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies[spelling].headers["x-trace-id"] = said
        await bodies[spelling](scope, receive, send)

    async def ask(endpoint: str) -> str:
        async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
            response = await api.post_fact(b"{}", key="k")
        return f"{response.message} {response.body} {response.raw!r} {response.trace_id}"

    with serving(app) as endpoint:
        seen = asyncio.run(ask(endpoint)).casefold()
    assert SECRET.casefold() not in seen
    assert quote(SECRET, safe="").casefold() not in seen


SPELLINGS = {
    "HTML by numbers": "".join(f"&#{ord(letter)};" for letter in SECRET),
    "HTML by hex": "".join(f"&#x{ord(letter):x};" for letter in SECRET),
    "JSON": "".join(f"\\u{ord(letter):04x}" for letter in SECRET),
    "JSON in JSON": json.dumps(json.dumps({"authorization": SECRET.replace("/", "\\/")})),
    "Python": "".join(f"\\x{ord(letter):02x}" for letter in SECRET),
    "every letter in percent": "".join(f"%{ord(letter):02X}" for letter in SECRET),
    "percent twice": quote(quote(SECRET, safe=""), safe=""),
    "mail": SECRET.replace("=", "=3D").replace("+", "=2B"),
    "wrapped": f"{SECRET[:9]}\n  {SECRET[9:]}",
    "hex with colons": SECRET.encode().hex(":"),
    "base64, wrapped": "\n".join(textwrap.wrap(base64.b64encode(f"Bearer {SECRET}".encode()).decode(), 20)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("status", [307, 422, 500])
def test_a_key_that_an_error_repeats_letter_by_letter_is_scrubbed(status: int, spelling: str) -> None:
    said = SPELLINGS[spelling]

    async def ask(endpoint: str) -> str:
        async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
            response = await api.post_fact(b"{}", key="k")
        return response.message + response.raw.decode()

    with serving(PlainTextResponse(f"Bearer {said} is bad", status)) as endpoint:
        seen = asyncio.run(ask(endpoint))
    letters = "".join(said.split())
    assert letters[len(letters) // 3 : -len(letters) // 3] not in "".join(seen.split())
    assert "***" in seen


@pytest.mark.parametrize("said", [SPELLINGS["JSON"], SECRET.replace("/", "\\/")], ids=["by numbers", "slashes"])
def test_a_key_that_a_good_answer_escapes_as_json_is_scrubbed(said: str) -> None:
    async def ask(endpoint: str) -> str:
        async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
            me = await api.me()
            response = await api.post_fact(b"{}", key="k")
        return f"{me.principal} {response.body} {response.raw!r}"

    answer = PlainTextResponse(f'{{"principalId": "{said}", "effectiveGrants": []}}', 200)
    with serving(answer) as endpoint:
        seen = asyncio.run(ask(endpoint))
    assert SECRET not in seen
    assert said not in seen
    assert "***" in seen


@pytest.mark.parametrize(
    "encode", [base64.b64encode, base64.urlsafe_b64encode, bytes.hex], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("before", ["", "B", "Bearer ", "user:"])
@pytest.mark.parametrize("after", ["", "\n", " of yours"])
def test_a_key_that_the_server_repeats_in_base64_is_scrubbed(encode: Any, before: str, after: str) -> None:
    whole = encode(f"{before}{SECRET}{after}".encode())
    said = whole if isinstance(whole, str) else whole.decode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"detail": f"not allowed: {said}"}, 401)(scope, receive, send)

    async def ask(endpoint: str) -> str:
        async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
            return (await api.post_fact(b"{}", key="k")).message

    with serving(app) as endpoint:
        message = asyncio.run(ask(endpoint))
    of_key = range(len(before) * 2 + 4, len(said) - len(after) * 2 - 14)
    assert [] == [said[at : at + 10] for at in of_key if said[at : at + 10] in message]


def test_the_text_of_a_memory_that_holds_the_key_is_left_as_it_is() -> None:
    turn = {"id": "t1", "content": f"my key is {SECRET}", "seq": 1, "role": "user", "createdAt": ""}

    async def ask(endpoint: str) -> list[Turn]:
        async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
            return await api.turns("s1")

    with serving(JSONResponse({"turns": [turn], "page": {"hasMore": False}})) as endpoint:
        assert [turn["content"]] == [one.content for one in asyncio.run(ask(endpoint))]


MALFORMED = {
    "status": f"HTTP/1.1 Bearer {SECRET} ok",
    "header": f"HTTP/1.1 200 ok\r\nBearer {SECRET}",
    "length": f"HTTP/1.1 200 ok\r\ncontent-length: Bearer {SECRET}",
    "chunk": f"HTTP/1.1 200 ok\r\ntransfer-encoding: chunked\r\n\r\nBearer {SECRET}",
}


@pytest.mark.parametrize("where", MALFORMED)
def test_the_key_of_a_malformed_response_is_in_no_traceback_of_an_application(where: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        scopes = b'HTTP/1.1 200 ok\r\nconnection: close\r\n\r\n{"scopes": [{"path": "user/alice"}]}'
        writer.write(scopes if head.startswith(b"GET") else f"{MALFORMED[where]}\r\n\r\n".encode())
        writer.close()

    async def open_a_session() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with SpectronClient(base_url=endpoint, api_key=SECRET, context="c") as client:
                await client.sessions.create(scope={"user": "alice"})

    with pytest.raises(Unreachable) as raised:
        asyncio.run(open_a_session())
    shown = "".join(traceback.format_exception(raised.value))
    assert "***" in shown
    assert SECRET not in shown


def test_a_malformed_response_with_the_key_is_scrubbed_too() -> None:
    async def ask() -> str:
        async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 ok\r\nBearer {SECRET}\r\n\r\n".encode())
            writer.close()

        async with await asyncio.start_server(repeat, "127.0.0.1", 0) as server:
            endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with SpectronApi(endpoint, "c", api_key=SECRET, timeout_s=5) as api:
                with pytest.raises(InDoubt) as problem:
                    await api.post_fact(b"{}", key="k")
        return problem.value.reason

    reason = asyncio.run(ask())
    assert SECRET not in reason
