"""No message of Mem0's server or store shows the key that it was asked with."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from spectron_migrate.errors import Unreachable
from spectron_migrate.mem0.served.http import JsonClient
from tests.support.proxy import serving

KEY = "m0-Geheim+und/lang="
BASIC = base64.b64encode(f"elastic:{KEY}".encode()).decode()
HEADERS = [
    {"Authorization": f"Token {KEY}"},
    {"X-API-Key": KEY},
    {"api-key": KEY, "Accept": "application/json"},
    {"Authorization": f"Basic {BASIC}"},
]


def failure_of(endpoint: str, headers: dict[str, str]) -> str:
    client = JsonClient(endpoint, headers, sleep=lambda seconds: None, plain_http=True)
    try:
        with pytest.raises(Unreachable) as raised:
            client.get("/rows")
    finally:
        client.close()
    return str(raised.value)


@pytest.mark.parametrize("headers", HEADERS, ids=["token", "key", "beside others", "basic"])
@pytest.mark.parametrize("said", [KEY, BASIC, KEY.replace("/", "%2F")], ids=["key", "basic", "quoted"])
@pytest.mark.parametrize("form", ["json", "text", "long"])
def test_a_key_that_is_repeated_is_scrubbed(headers: dict[str, str], said: str, form: str) -> None:
    message = f"{'x' * 190 if form == 'long' else 'bad header'} {said}: application/json"
    answer: Any = PlainTextResponse(message, 400) if form == "text" else JSONResponse({"detail": message}, 400)
    with serving(answer) as endpoint:
        shown = failure_of(endpoint, headers)
    assert said[len(said) // 2 : -4] not in shown
    assert KEY[:6] not in shown
    assert form == "long" or "application/json" in shown


def test_a_key_in_a_malformed_answer_is_scrubbed_too() -> None:
    ready, ended = threading.Event(), threading.Event()
    port: list[int] = []

    async def serve() -> None:
        async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 ok\r\nToken {KEY}\r\n\r\n".encode())
            writer.close()

        async with await asyncio.start_server(repeat, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        assert KEY not in failure_of(f"http://127.0.0.1:{port[0]}", HEADERS[0])
    finally:
        ended.set()
        thread.join()
