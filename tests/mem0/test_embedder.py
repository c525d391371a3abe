"""An embedder that does not answer is found by one question, within one time limit, and named with its address."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from spectron_migrate.errors import Unreachable
from spectron_migrate.mem0.embedder import MOST_FAILURES, TimedEmbedder, ask_once, check_connection, embedder_name
from spectron_migrate.mem0.stores.config_spellings import OWN_KEY


class Embedder:
    """Answers as the test says, and counts how often it was asked."""

    def __init__(self, *, hangs: bool = False, fails: int = 0) -> None:
        self.asked = 0
        self.dimensions = 3
        self._hangs, self._fails = hangs, fails

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        self.asked += 1
        if self._hangs:
            Event().wait()
        if self.asked <= self._fails:
            raise ConnectionError("sk-secret")
        return [0.1, 0.2, 0.3]

    def embed_batch(self, texts: list[str], memory_action: str | None = None) -> list[list[float]]:
        return [self.embed(text) for text in texts]


def ollama(address: str) -> dict[str, Any]:
    return {"embedder": {"provider": "ollama", "config": {"ollama_base_url": address}}}


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


def test_eighty_questions_to_an_embedder_that_hangs_wait_once() -> None:
    hanging = Embedder(hangs=True)
    embedder = TimedEmbedder(hanging, "ollama at http://10.0.0.9:11434", answer_s=0.05)
    began = time.monotonic()
    for _ in range(80):
        with pytest.raises(Unreachable, match=r"ollama at http://10\.0\.0\.9:11434 did not answer within 0\.05 s"):
            embedder.embed("a question", "search")
    assert 1 == hanging.asked
    assert time.monotonic() - began < 10


def test_an_embedder_that_refuses_is_asked_a_few_times_only() -> None:
    refusing = Embedder(fails=80)
    embedder = TimedEmbedder(refusing, "openai")
    for _ in range(80):
        with pytest.raises(Unreachable, match="did not answer: ConnectionError") as failed:
            embedder.embed("a question", "search")
        assert "sk-secret" not in f"{failed.value} {failed.value.hint}"
    assert MOST_FAILURES == refusing.asked


def test_one_failure_between_answers_does_not_end_it() -> None:
    embedder = TimedEmbedder(Embedder(fails=1), "openai")
    with pytest.raises(Unreachable):
        embedder.embed("a question")
    assert 3 == ask_once(embedder)
    assert [[0.1, 0.2, 0.3]] == embedder.embed_batch(["a question"], "search")


def test_everything_else_is_the_embedder_s_own() -> None:
    assert 3 == TimedEmbedder(Embedder(), "openai").dimensions


def test_nothing_listens_at_its_address(free_port: int) -> None:
    address = f"http://127.0.0.1:{free_port}"
    with pytest.raises(Unreachable, match=f"ollama at {address} did not answer .connection refused.") as refused:
        check_connection(ollama(f"http://me:secret@127.0.0.1:{free_port}/"))
    assert "secret" not in str(refused.value)


def test_a_server_that_listens_is_asked_nothing_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_connection(ollama(f"http://127.0.0.1:{server.getsockname()[1]}"))
        server.settimeout(5)
        connected, _ = server.accept()
        assert b"" == connected.recv(10)
        connected.close()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "openai at https://api.openai.com/v1"),
        ({"embedder": {"provider": "huggingface"}}, "huggingface"),
        (ollama("http://me:secret@gpu:11434/"), "ollama at http://gpu:11434"),
        (
            {"embedder": {"provider": "openai", "config": {"openai_base_url": "https://x.example/v1"}}},
            "openai at https://x.example/v1",
        ),
        ({OWN_KEY: {"embedder": "wordllama"}, "embedder": {"provider": "lmstudio"}}, "lmstudio"),
    ],
)
def test_it_is_named_with_its_address(config: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert name == embedder_name(config)
