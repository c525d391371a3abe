"""What is particular to stores that only exist as a service."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.stores import azure_ai_search
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.mem0.stores.weaviate import Weaviate
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW
from tests.mem0.qdrant_points import uuid
from tests.mem0.rows import Row
from tests.mem0.standins import KEY, serving
from tests.mem0.stores.kinds import SERVICES, Kind
from tests.mem0.stores.rest_standins import AzureSearch, Upstash

pytestmark = pytest.mark.slow


def rows(number: int, owner: Callable[[int], Row]) -> dict[str, Row]:
    return {uuid(one): {"data": f"note {one}", **owner(one)} for one in range(number)}


def config(provider: str, **settings: Any) -> dict[str, Any]:
    store = {"provider": provider, "config": {"collection_name": "mem0", **settings}}
    return {"vector_store": store, "history_db_path": "/nowhere/history.db"}


@contextmanager
def azure(held: dict[str, Row], *, reach: int) -> Iterator[dict[str, Any]]:
    stand_in = AzureSearch(reach=reach)
    stand_in.held.update(held)
    with serving(stand_in) as url:
        yield config("azure_ai_search", service_name=url, api_key=KEY)


@pytest.mark.parametrize(
    "owner",
    [
        lambda one: {"user_id": f"user {one % 30}"},
        lambda one: {"user_id": "it's one", "run_id": f"run-{one}"},
        lambda one: {"user_id": f"user-{one % 40}"} if one % 2 else {"agent_id": f"bot-{one % 7}"},
    ],
    ids=["users", "runs of one user", "users and agents"],
)
def test_an_azure_index_beyond_what_can_be_paged_is_read_in_parts(
    owner: Callable[[int], Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_ai_search, "_REACH", 150)
    held = rows(1000, owner)
    with azure(held, reach=150) as settings, open_oss(settings, now=NOW, sleep=lambda seconds: None) as reader:
        found = [row.id for row in reader.rows() if isinstance(row, Memory)]
        assert (0, "") == (reader.missing(), reader.unproven)
    assert sorted(held) == sorted(found)


def test_one_owner_with_more_than_azure_lists_is_named_as_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_ai_search, "_REACH", 150)
    with (
        azure(rows(200, lambda one: {"user_id": "alice"}), reach=150) as settings,
        open_oss(settings, now=NOW) as reader,
        pytest.raises(Incomplete, match="more than 150 rows of one owner"),
    ):
        list(reader.rows())


def test_a_query_key_of_azure_that_may_not_list_indexes_still_says_that_the_index_is_not_there() -> None:
    stand_in = AzureSearch()
    stand_in.lists_indexes = False
    with serving(stand_in) as url, pytest.raises(InputError) as error:
        open_oss(config("azure_ai_search", service_name=url, api_key=KEY, collection_name="memorise"), now=NOW)
    assert "there is no index memorise" in error.value.message
    assert "may not list" in (error.value.hint or "")


@pytest.mark.parametrize(("lags", "proven"), [(6, True), (10_000, False)])
def test_an_upstash_index_with_pending_changes_is_asked_again_and_else_not_provable(lags: int, proven: bool) -> None:
    stand_in = Upstash()
    stand_in.held.update(rows(50, lambda one: {"user_id": "alice"}))
    stand_in.lags = lags
    waits: list[float] = []
    with (
        serving(stand_in) as url,
        open_oss(config("upstash_vector", url=url, token=KEY), now=NOW, sleep=waits.append) as reader,
    ):
        assert 50 == len(list(reader.rows()))
        assert proven == (reader.unproven == "")
    assert waits


def test_the_environment_names_an_upstash_index_as_its_own_client_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Upstash()) as url:
        monkeypatch.setenv("UPSTASH_VECTOR_REST_URL", url)
        monkeypatch.setenv("UPSTASH_VECTOR_REST_TOKEN", KEY)
        with open_oss(config("upstash_vector"), now=NOW) as reader:
            assert 0 == reader.native_count()


def _token(role: str) -> str:
    claims = urlsafe_b64encode(json.dumps({"role": role}).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{claims}.c2lnbmVk"


@pytest.mark.parametrize("key", [_token("anon"), "sb_publishable_x"])
def test_a_public_key_of_supabase_is_refused_because_rows_would_be_hidden_from_it(key: str) -> None:
    with pytest.raises(InputError, match="row-level security hides rows") as error:
        open_oss(config("supabase", supabase_url="https://x.supabase.co", supabase_key=key), now=NOW)
    assert "service_role" in (error.value.hint or "")
    assert key not in error.value.message


def test_weaviate_on_this_machine_is_asked_at_the_port_that_mem0_asks() -> None:
    given = {"cluster_url": "http://localhost:9999", "auth_client_secret": KEY}
    store = Weaviate(VectorStore("weaviate", "mem0", given), sleep=None)
    assert "at http://localhost:8080" == store.where
    store.close()


@pytest.mark.parametrize(
    ("provider", "settings", "lacking"),
    [
        ("upstash_vector", {}, "`url` and `token`"),
        ("turbopuffer", {}, "`api_key`"),
        ("weaviate", {}, "`cluster_url`"),
        ("azure_ai_search", {"api_key": "x"}, "`service_name`"),
        ("supabase", {"table_name": "memories"}, "`supabase_url` and `supabase_key`"),
        ("vectorize", {"index_name": "memories"}, "`account_id` and `api_key`"),
    ],
)
def test_what_a_configuration_lacks_is_one_sentence_with_the_way_on(
    provider: str, settings: dict[str, Any], lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("UPSTASH_VECTOR_REST_URL", "UPSTASH_VECTOR_REST_TOKEN", "TURBOPUFFER_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError) as error:
        open_oss(config(provider, **settings), now=NOW)
    assert f"{provider} needs {lacking}" in error.value.message
    assert error.value.hint


@pytest.fixture(params=SERVICES)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    with SERVICES[request.param](tmp_path) as running:
        yield running


def test_rows_of_mem0s_entity_store_among_the_memories_are_no_memories(kind: Kind) -> None:
    kind.put(rows(3, lambda one: {"user_id": "alice"}))
    entity = {"data": "Berlin", "entityType": "place", "linkedMemoryIds": [uuid(1)], "user_id": "alice"}
    kind.put({uuid(77): entity})
    with open_oss(kind.config(), now=NOW) as reader:
        found = [row.id for row in reader.rows() if isinstance(row, Memory)]
        assert 0 == reader.missing()
    assert sorted(rows(3, lambda one: {})) == sorted(found)
