"""Extraction by a model behind an OpenAI-compatible endpoint: a server on loopback with canned answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from spectron_migrate.local.language_model import LanguageModelExtractor, from_environment
from spectron_migrate.local.rules import RuleExtractor
from tests.local.support import spectron
from tests.support.language_model import Model, language_model

pytestmark = pytest.mark.slow


@pytest.fixture
def model() -> Iterator[Model]:
    """A running endpoint."""
    with language_model() as server:
        yield server


def test_facts_of_the_model_supersede_like_those_of_the_rules(model: Model) -> None:
    fact = {"type": "person", "name": "user", "key": "Lives In", "value": "Berlin", "confidence": 0.8}
    with spectron(extractor=LanguageModelExtractor(model.url, "small", "sk-model")) as local:
        model.content = {"facts": [fact], "instructions": ["Answer in German"]}
        session = local.remember("ich wohne in Berlin")["sessionId"]
        model.content = {"facts": [{**fact, "value": "Lisbon", "category": "nonsense"}]}
        made = local.remember("und jetzt in Lissabon", session_id=session)

        assert [("Berlin", False), ("Lisbon", True)] == local.history("lives_in")
        assert "context" == made["extraction"]["attributes"][0]["memoryCategory"]
        assert 1 == len(local.ok("GET", "/profile")["instructions"])
    path, key, body = model.asked[-1]
    asked = json.loads(body["messages"][1]["content"])
    assert "/v1/chat/completions" == path
    assert "Bearer sk-model" == key
    assert "small" == body["model"]
    assert ["person/user"] == asked["known_entities"]
    assert [{"role": "user", "text": "und jetzt in Lissabon"}] == asked["conversation"]


@pytest.mark.parametrize(
    "content", ["no json", [], {"facts": [5, {}, {"name": "x"}]}, {"facts": 5}, {"instructions": [5]}, "null"]
)
def test_a_malformed_answer_stores_the_text_without_facts(model: Model, content: object) -> None:
    model.content = content
    with spectron(extractor=LanguageModelExtractor(model.url, "small")) as local:
        made = local.remember("Lives in Berlin")

        assert [] == made["extraction"]["attributes"]
        assert ["Lives in Berlin"] == local.passages("Berlin")


def test_an_unreachable_model_stores_the_text_and_a_busy_one_is_429(model: Model) -> None:
    with spectron(extractor=LanguageModelExtractor("http://127.0.0.1:9/v1", "small")) as local:
        assert [] == local.remember("x")["extraction"]["attributes"]
    with spectron(extractor=LanguageModelExtractor(model.url, "small")) as local:
        local.checked = False
        model.status = 500
        assert [] == local.remember("x")["extraction"]["attributes"]
        model.status = 429
        busy = local.call("POST", "/facts", {"text": "y"})
        assert (429, "7") == (busy.status, busy.headers["retry-after"])
        assert ["x"] == local.passages("x y")


def test_the_environment_names_endpoint_and_model_together_and_over_https() -> None:
    names = ("SPECTRON_LOCAL_MODEL_ENDPOINT", "SPECTRON_LOCAL_MODEL", "SPECTRON_LOCAL_MODEL_API_KEY")
    full = dict(zip(names, ("https://models.example/v1", "small", "sk-secret"), strict=True))

    assert isinstance(from_environment({}), RuleExtractor)
    assert isinstance(from_environment(full), LanguageModelExtractor)
    assert "sk-secret" not in repr(from_environment(full))
    with pytest.raises(ValueError, match="needs SPECTRON_LOCAL_MODEL"):
        from_environment({names[0]: full[names[0]]})
    with pytest.raises(ValueError, match="needs SPECTRON_LOCAL_MODEL_ENDPOINT"):
        from_environment({names[1]: "small"})
    with pytest.raises(ValueError, match="must be https"):
        from_environment({**full, names[0]: "http://models.example/v1"})


@contextmanager
def served(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client, list[str]]]:
    """`spectron-migrate local` as a user starts it; the list has the lines that it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "local", "--port", "0", *options],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        printed = [process.stderr.readline(), process.stderr.readline()]
        url = printed[0].removeprefix("local Spectron at ").split(",")[0]
        with httpx.Client(base_url=f"{url}/api/v1/local", headers={"authorization": "Bearer sk-local"}) as client:
            yield process, client, printed
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_command_line_uses_the_options_before_the_environment_and_prints_the_endpoint(model: Model) -> None:
    model.content = {"facts": [{"type": "person", "name": "user", "key": "home", "value": "Ulm"}]}
    options = ("--model-endpoint", model.url, "--model", "small")
    with served(*options, SPECTRON_LOCAL_MODEL="other", SPECTRON_LOCAL_MODEL_API_KEY="sk-model") as (
        _,
        client,
        printed,
    ):
        made = client.post("/facts", json={"text": "in Ulm daheim"}).json()
    assert "Ulm" == made["extraction"]["attributes"][0]["value"]
    assert ("Bearer sk-model", "small") == (model.asked[0][1], model.asked[0][2]["model"])
    assert f"texts go to small at {model.url.split('/')[2]}" in printed[0]


def test_the_command_line_prints_why_no_facts_were_extracted(model: Model) -> None:
    model.status = 401
    with served(SPECTRON_LOCAL_MODEL_ENDPOINT=model.url, SPECTRON_LOCAL_MODEL="small") as (process, client, _):
        made = client.post("/facts", json={"text": "Lives in Ulm"}).json()
        assert process.stderr is not None
        line = process.stderr.readline()
        found = client.post("/query", json={"query": "Ulm", "include": ["passages"]}).json()["hits"]
    assert [] == made["extraction"]["attributes"]
    assert "small at 127.0.0.1" in line
    assert "answered 401 Unauthorized: 1 texts stored without facts" in line
    assert ["Lives in Ulm"] == [hit["text"] for hit in found]


def test_an_incomplete_setting_exits_with_2_before_it_listens() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "spectron_migrate", "local", "--model", "small"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (2, True) == (finished.returncode, "needs SPECTRON_LOCAL_MODEL_ENDPOINT" in finished.stderr)


def test_the_command_line_uses_the_rules_by_default() -> None:
    with served() as (_, client, printed):
        made = client.post("/facts", json={"text": "Lives in Ulm"}).json()
    assert "extracts by rules" in printed[0]
    assert "Ulm" == made["extraction"]["attributes"][0]["value"]
