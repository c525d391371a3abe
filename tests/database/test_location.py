"""URLs of a state in Postgres."""

from __future__ import annotations

import pytest

from spectron_migrate.database.location import has_password, is_url, parse_location
from spectron_migrate.errors import InputError


def test_a_directory_is_no_url() -> None:
    assert not is_url("state")
    assert not is_url("/var/lib/spectron-migrate")
    assert not is_url("C:/state")
    assert is_url("postgresql://db/app")


def test_the_schema_is_ours_and_everything_else_is_libpqs() -> None:
    location = parse_location("postgres://me@a:1,b:2/app?sslmode=verify-full&schema=other&passfile=%2Fp")
    assert "other" == location.schema
    assert "postgresql://me@a:1,b:2/app?sslmode=verify-full&passfile=%2Fp" == location.url


def test_without_a_schema_it_is_spectron_migrate() -> None:
    assert "spectron_migrate" == parse_location("postgresql:///app?service=mine").schema


@pytest.mark.parametrize("url", ["postgresql://me:secret@db/app", "postgresql://db/app?user=me&password=secret"])
def test_a_password_is_never_shown(url: str) -> None:
    location = parse_location(url)
    assert "secret" in location.url
    assert "secret" not in str(location)
    assert "secret" not in repr(location)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@db/app", "postgresql://db/app?password=secret", "postgresql://db/app?sslpassword=secret"],
)
def test_a_password_is_noticed_that_a_settings_file_may_not_contain(url: str) -> None:
    assert has_password(url)
    assert not has_password(url.replace(":secret", "").replace("password=secret", ""))


@pytest.mark.parametrize("url", ["postgresql://[::1/app", "postgresql://[secret]x/app"])
def test_what_only_begins_like_a_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="`state` is no URL") as refused:
        parse_location(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("schema", ["Mine", "a-b", "", "pg_mine", "a&schema=b", 'x"y'])
def test_a_schema_that_needs_quotes_or_is_the_servers_own_is_refused(schema: str) -> None:
    with pytest.raises(InputError, match="`schema` of `state` is"):
        parse_location(f"postgresql://db/app?schema={schema}")


def test_another_kind_of_url_is_refused_without_its_contents() -> None:
    with pytest.raises(InputError, match="`state` is mysql://…, it must be") as refused:
        parse_location("mysql://me:secret@db/app")
    assert "secret" not in str(refused.value)
