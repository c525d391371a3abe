"""Single values: an endpoint has one spelling, and http reaches this machine only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.settings import is_loopback, parse_endpoint
from tests.support.examples import examples


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Spectron.Example/", "https://spectron.example"),
        ("https://h.example/api/v1", "https://h.example"),
        ("https://h.example/api/v1/", "https://h.example"),
        ("https://h.example:8443/prefix/api/v1/", "https://h.example:8443/prefix"),
        ("http://localhost:9090", "http://localhost:9090"),
        ("http://127.0.0.1:9090/", "http://127.0.0.1:9090"),
        ("http://127.8.9.1", "http://127.8.9.1"),
        ("http://[::1]:9090", "http://[::1]:9090"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
    ],
)
def test_an_endpoint_has_one_spelling(text: str, expected: str) -> None:
    """However it was pasted; parsing it again changes nothing."""
    assert expected == parse_endpoint(text) == parse_endpoint(parse_endpoint(text))


@pytest.mark.parametrize(
    "text",
    [
        "http://h.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://0.0.0.0",
        "http://[::]:80",
        "http://[::ffff:127.0.0.1]",
        "http://2130706433",
        "ftp://h.example",
        "h.example",
        "//h.example",
        "https://",
        "https:///x",
        "https://user:hunter2@h.example",
        "https://hunter2@h.example",
        "https://h.example?key=hunter2",
        "https://h.example/#hunter2",
        "https://h.example/api/v1/ctx",
        "https://h.example:port",
        "https://h.example:99999",
        "https://h.ex ample",
        "https://h.example\\@evil.example",
        "https://h.example/../x y",
        "https://h.example/%2e",
        "https://h.example\n",
        "https://[::1%25hunter2]",
        "https://hé.example",
    ],
)
def test_text_that_is_not_an_endpoint_is_refused_without_repeating_it(text: str) -> None:
    """It may contain a password."""
    with pytest.raises(ValueError) as refused:
        parse_endpoint(text)

    assert "hunter2" not in str(refused.value)


def test_only_this_machine_is_loopback() -> None:
    """A key is sent over plain http to no other host."""
    inside = ("localhost", "127.0.0.1", "127.255.0.1", "::1")
    outside = ("127.0.0.1.example", "localhost.", "10.0.0.1", "::", "0.0.0.0", "")

    assert [] == [host for host in inside if not is_loopback(host)]
    assert [] == [host for host in outside if is_loopback(host)]


@settings(max_examples=examples(250), deadline=None)
@given(st.text() | st.from_regex(r"https?://[a-z0-9.:@\[\]%/?#\\-]{0,20}"))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    """No endpoint is plain http to another machine."""
    try:
        found = parse_endpoint(text)
    except ValueError:
        return
    host = found.removeprefix("http://").split("/")[0].rsplit(":", 1)[0].strip("[]")
    assert found.startswith("https://") or is_loopback(host) or is_loopback(f"{host}:1".rsplit(":", 1)[0])
    assert found == parse_endpoint(found)
