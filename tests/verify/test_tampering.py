"""Whatever is changed behind the back of a migration, at the server or in Mem0, the verdict is not GO."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.ledger import Ledger
from spectron_migrate.migration.changes import Settling
from spectron_migrate.migration.differences import compare_with_ledger
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.spectron.api import SpectronApi
from tests.support.spectron import replay, write_raw
from tests.verify.support import named_findings, tampering
from tests.verify.tampered import (
    LONG,
    LONG_BO,
    STAMPS,
    Migrated,
    Tables,
    execute,
    first,
    long_text,
    move_turn,
    second,
    share_attribute,
    swap,
    swap_contents,
    swap_places,
    swap_sentences,
    tail,
)

pytestmark = pytest.mark.slow

AT_THE_SERVER: dict[str, tuple[Callable[[Tables], None], str, str]] = {
    # name -> what is changed, the finding and the memory that it names
    "the second passage of a long memory is gone": (lambda t: t.drop(second(t)), "missing", "anna-0100"),
    "the last passage of a long memory is gone": (lambda t: t.drop(tail(t)), "missing", "anna-0100"),
    "the first passage of a long memory is gone": (lambda t: t.drop(first(t)), "missing", "anna-0100"),
    "a sentence of the second passage is negated": (
        lambda t: t.replace(second(t), " liked ", " never liked "),
        "altered",
        "anna-0100",
    ),
    "a number in the last passage is another": (lambda t: t.replace(tail(t), "99", "98"), "altered", "anna-0100"),
    "the last passage ends too early": (lambda t: t.write(tail(t), t.text(tail(t))[:-60]), "missing", "anna-0100"),
    "the last passage goes on too long": (
        lambda t: t.write(tail(t), t.text(tail(t)) + " None of this is true."),
        "altered",
        "anna-0100",
    ),
    "the last passage is empty": (lambda t: t.write(tail(t), ""), "missing", "anna-0100"),
    "a letter of the last passage is of another alphabet": (
        lambda t: t.replace(tail(t), "liked", "likеd"),
        "altered",
        "anna-0100",
    ),
    "two sentences of a passage have changed places": (lambda t: swap_sentences(t, second(t)), "altered", "anna-0100"),
    "the last passage is masked": (lambda t: t.replace(tail(t), "anna", "[NAME]"), "altered", "anna-0100"),
    "the last passage was forgotten": (
        lambda t: execute("UPDATE item SET until = known_at WHERE number = ?", str(tail(t)))(t),
        "missing",
        "anna-0100",
    ),
    "the first two passages have changed places": (lambda t: swap(t, first(t), second(t)), "altered", "anna-0100"),
    "two users' second passages have changed places": (
        lambda t: swap(t, second(t), second(t, LONG_BO)),
        "altered",
        "bo-0101",
    ),
    "the last passage is another user's": (
        lambda t: execute(f"UPDATE item SET selector = {t.selector_of('bo')} WHERE number = ?", str(tail(t)))(t),
        "missing",
        "anna-0100",
    ),
    "the last passage is another user's as well": (lambda t: t.copy(tail(t), "dan"), "leak", "anna-0100"),
    "the second passage is stored twice": (lambda t: t.copy(second(t), "anna"), "doubled", "anna-0100"),
    "the first passage begins otherwise": (lambda t: t.replace(first(t), "day 0", "day 7"), "altered", "anna-0100"),
    "a short passage is negated": (
        lambda t: t.replace(first(t, STAMPS), "Collects", "No longer collects"),
        "altered",
        "cleo-0009",
    ),
    "a short passage is in capitals": (
        lambda t: t.write(first(t, STAMPS), t.text(first(t, STAMPS)).upper()),
        "altered",
        "cleo-0009",
    ),
    "a short passage holds a letter that nobody sees": (
        lambda t: t.replace(first(t, STAMPS), "stamps", "sta\u200bmps"),
        "altered",
        "cleo-0009",
    ),
    "a short passage holds another memory's text": (
        lambda t: t.write(first(t, STAMPS), t.text(first(t, "bees on the roof, says cleo"))),
        "altered",
        "cleo-0009",
    ),
    "one memory of one user is one other user's as well": (
        lambda t: t.share(first(t, STAMPS), "cleo", "eve"),
        "leak",
        "cleo-0009",
    ),
    "one memory of one user has a copy with one other user": (
        lambda t: t.copy(first(t, STAMPS), "eve"),
        "leak",
        "cleo-0009",
    ),
    "a replaced text is another user's as well": (
        lambda t: t.share(first(t, "of anna as an astronomer"), "anna", "bo"),
        "leak",
        "anna-0020",
    ),
    "an extracted fact is another user's as well": (lambda t: share_attribute(t, "dan", "eve"), "leak", "dan-0015"),
    "two turns of one session hold each other's text": (
        lambda t: swap_contents(t, STAMPS, "bees on the roof, says cleo"),
        "altered",
        "cleo-0009",
    ),
    "a turn is the assistant's": (
        execute("UPDATE turn SET role = 'assistant' WHERE content LIKE ?", f"%{STAMPS}%"),
        "altered",
        "cleo-0009",
    ),
    "a turn of the assistant is the user's": (
        execute("UPDATE turn SET role = 'user' WHERE role = ?", "assistant"),
        "altered",
        "anna-0200",
    ),
    "a turn lies in another user's session": (lambda t: move_turn(t, STAMPS, "dan"), "missing", "cleo-0009"),
    "a long turn lacks its last sentence": (
        execute("UPDATE turn SET content = substr(content, 1, length(content) - 50) WHERE content LIKE ?", f"%{LONG}%"),
        "altered",
        "anna-0100",
    ),
    "two turns of one session have changed places": (
        lambda t: swap_places(t, STAMPS, "alto in a choir, says cleo"),
        "order",
        "cleo-0009",
    ),
    "all turns of one user are gone": (
        execute("DELETE FROM turn WHERE session IN (SELECT id FROM sessions WHERE scopes LIKE ?)", "%user/dan/%"),
        "missing",
        "dan-0012",
    ),
    "all passages of one user are gone, and the turns are there": (
        lambda t: execute(f"DELETE FROM item WHERE selector = {t.selector_of('eve')}")(t),
        "misplaced",
        "eve-0016",
    ),
}


def test_an_untouched_migration_is_a_go(migrated: Migrated) -> None:
    summary = migrated.verify()
    assert {("stale", "anna-0020")} == named_findings(summary)
    assert "GO" == summary.verdict


@pytest.mark.parametrize("name", AT_THE_SERVER)
def test_tampering_at_the_server_is_named(migrated: Migrated, name: str) -> None:
    change, kind, mem0_id = AT_THE_SERVER[name]
    with tampering(migrated.server) as db:
        change(Tables(db))
        db.execute("INSERT INTO item_text(item_text) VALUES ('rebuild')")
    summary = migrated.verify()
    assert (kind, mem0_id) in named_findings(summary)
    assert "NO_GO" == summary.verdict


def test_a_long_memory_written_again_through_another_session_is_doubled(migrated: Migrated) -> None:
    async def write_again() -> None:
        server = migrated.server
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session((("user/bo",),))
            body = {"infer": "none", "session_id": session.id, "text": long_text("bo")}
            assert 200 == (await api.post_fact(json.dumps(body).encode(), key="somebody-else")).status

    asyncio.run(write_again())
    summary = migrated.verify()
    assert ("doubled", "bo-0101") in named_findings(summary)
    assert "NO_GO" == summary.verdict


@pytest.mark.parametrize("at", [None, "2020-01-01T00:00:00+00:00", "2025-01-01T09:00:00+00:00"])
def test_an_edit_in_mem0_that_replay_did_not_take_for_newer_is_pending(migrated: Migrated, at: str | None) -> None:
    edited = [
        {**row, "memory": "Collects no stamps any more", "created_at": at, "updated_at": at}
        if row["id"] == "cleo-0009"
        else row
        for row in json.loads(migrated.dump.read_text())["results"]
    ]
    write_raw(migrated.dump, edited)
    replay(migrated.server, migrated.state, [migrated.dump])
    summary = migrated.verify()
    assert ("pending", "cleo-0009") in named_findings(summary)
    assert "INCONCLUSIVE" == summary.verdict


def test_a_text_that_a_person_said_is_older_is_neither_pending_nor_altered(migrated: Migrated) -> None:
    """What stands in the ledger is the newer one: it is what Spectron must have."""
    edited = [
        {**row, "memory": "Collects no stamps any more"} if row["id"] == "cleo-0009" else row
        for row in json.loads(migrated.dump.read_text())["results"]
    ]
    write_raw(migrated.dump, edited)
    assert 1 == replay(migrated.server, migrated.state, [migrated.dump]).pending
    older = ReplayOptions(choices={"cleo-0009": "older"})
    assert 0 == replay(migrated.server, migrated.state, [migrated.dump], options=older).pending
    summary = migrated.verify()
    assert "cleo-0009" not in {mem0_id for _, mem0_id in named_findings(summary)}
    assert "GO" == summary.verdict
    with open_any([migrated.dump]) as dump, Ledger.open_for_reading(migrated.state) as ledger:
        assert 0 == compare_with_ledger(ledger, dump, Settling("2026-01-01T00:00:00.000000Z", 60.0)).total
