"""Requests to OpenSearch on AWS are signed (Signature Version 4), as a server computes it from what it received."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import httpx
import pytest

from spectron_migrate.errors import InputError, KeyRefused
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.mem0.stores.search_index import aws_signature
from tests.mem0.conftest import NOW
from tests.mem0.standins import serving
from tests.mem0.stores.store_standins import SearchEngine

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
"""Those of AWS's published examples."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of AWS lead to this machine."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **how: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        return resolve("127.0.0.1" if ".amazonaws.com" in name or name.endswith(".on.aws") else host, *arguments, **how)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def signature(secret: str, scope: list[str], time: str, canonical: str) -> str:
    """The signature of a canonical request, by AWS's description of the algorithm."""
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", time, "/".join(scope), digest))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class Aws(SearchEngine):
    """A domain of OpenSearch that takes requests with a right signature only; serverless wants the hash of the body."""

    def __init__(self, region: str, service: str) -> None:
        super().__init__("opensearch")
        self.region, self.service = region, service
        self.session_token: str | None = None

    def accepts(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bool:
        algorithm, _, rest = headers.get("Authorization", "").partition(" ")
        given = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
        if algorithm != "AWS4-HMAC-SHA256":
            return False
        key_id, *scope = given["Credential"].split("/")
        names = given["SignedHeaders"].split(";")
        parts = urlsplit(target)
        pairs = sorted(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
        canonical = "\n".join(
            (
                method,
                quote(parts.path, safe="/~"),
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{' '.join(headers[name].split())}" for name in names),
                "",
                ";".join(names),
                hashlib.sha256(body).hexdigest(),
            )
        )
        time = headers["X-Amz-Date"]
        wanted = {"host", "x-amz-date"} | ({"x-amz-security-token"} if self.session_token else set())
        if self.service == "aoss":
            wanted.add("x-amz-content-sha256")
        return (
            key_id == KEY_ID
            and scope == [time[:8], self.region, self.service, "aws4_request"]
            and wanted <= set(names)
            and headers.get("X-Amz-Security-Token") == self.session_token
            and headers.get("X-Amz-Content-SHA256") in (hashlib.sha256(body).hexdigest(), None)
            and given["Signature"] == signature(SECRET, scope, time, canonical)
        )


def config(host: str, port: int, **more: Any) -> dict[str, Any]:
    settings = {"host": f"http://{host}", "port": port, "collection_name": "mem0", **more}
    return {"vector_store": {"provider": "opensearch", "config": settings}, "history_db_path": "/nowhere/history.db"}


DOMAINS = [
    ("search-notes-abc123.eu-west-1.es.amazonaws.com", "eu-west-1", "es"),
    ("abc123.us-east-2.aoss.amazonaws.com", "us-east-2", "aoss"),
    ("search-notes-abc123.cn-north-1.es.amazonaws.com.cn", "cn-north-1", "es"),
    ("search-notes-abc123.aos.eu-central-1.on.aws", "eu-central-1", "es"),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize(("host", "region", "service"), DOMAINS)
def test_a_domain_of_aws_takes_every_request_of_a_reading(
    host: str, region: str, service: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    server = Aws(region, service)
    server.session_token = token
    server.held.update({f"m{one}": {"data": f"note {one} ü", "user_id": "dana"} for one in range(2345)})

    with serving(server) as url, open_oss(config(host, int(urlsplit(url).port or 0)), now=NOW) as reader:
        found = {row.id for row in reader.rows()}
        assert 0 == reader.missing()

    assert set(server.held) == found


@pytest.mark.usefixtures("here")
def test_another_secret_is_a_refused_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    host, region, service = DOMAINS[0]

    with serving(Aws(region, service)) as url, pytest.raises(KeyRefused):
        open_oss(config(host, int(urlsplit(url).port or 0)), now=NOW)


@pytest.mark.usefixtures("here")
def test_without_credentials_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda self: None)

    with pytest.raises(InputError, match="needs AWS credentials") as refused:
        open_oss(config(DOMAINS[0][0], 9200), now=NOW)

    assert "AWS_PROFILE" in (refused.value.hint or "")


@pytest.fixture
def published_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of AWS's examples: 2015-08-30 12:36:00."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: datetime(2015, 8, 30, 12, 36, tzinfo=UTC))


PUBLISHED = [
    (
        ("iam", httpx.Request("GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08")),
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
    ),
    (
        ("service", httpx.Request("GET", "https://example.amazonaws.com/")),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    (
        ("service", httpx.Request("POST", "https://example.amazonaws.com/")),
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
]


@pytest.mark.usefixtures("published_moment")
@pytest.mark.parametrize(("asked", "expected"), PUBLISHED)
def test_the_signatures_are_those_that_aws_published(asked: tuple[str, httpx.Request], expected: str) -> None:
    service, request = asked
    if service == "iam":
        request.headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
    store = VectorStore("opensearch", "mem0", {"host": f"https://x.us-east-1.{service}.amazonaws.com", "port": 443})
    signer = aws_signature(store)
    assert signer is not None

    signed = next(signer.auth_flow(request))

    assert expected == signed.headers["Authorization"].rpartition("=")[2]
    assert "20150830T123600Z" == signed.headers["X-Amz-Date"]
