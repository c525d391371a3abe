"""After `complete` an application with another mapping than the memories were written with misplaces nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger
from tests.adapter.support import TEA, Stage, Untouchable, texts, turns

pytestmark = pytest.mark.slow

BY_ORG = """version: 1
rules:
  - when: {user_id: "*"}
    scope: {org: "{org}", user: "{user_id}"}
    lookup: {file: orgs.csv, key: user_id, value: org}
"""
BY_TENANT = """version: 1
rules:
  - when: {user_id: "*"}
    scope: {tenant: acme, user: "{user_id}"}
"""
KNOWLEDGE = """version: 1
rules:
  - when: {metadata.kind: taste}
    scope: {org: NODE}
  - when: {user_id: "*"}
    scope: {user: "{user_id}"}
"""

Change = Callable[[Stage], None]


def mine(stage: Stage, **more: str) -> dict[str, Any]:
    return {"filters": {"user_id": stage.user, **more}}


def write_table(folder: Path, **orgs: str) -> None:
    (folder / "orgs.csv").write_text("user_id,org\n" + "".join(f"{user},{org}\n" for user, org in orgs.items()))


def completed(stage: Stage, mapping: str) -> Stage:
    """A completed migration under this mapping."""
    stage.mapping = stage.folder / "mapping.yaml"
    stage.mapping.write_text(mapping)
    stage.write_settings({"mapping": "mapping.yaml"})
    stage.say(TEA, metadata={"kind": "taste"})
    stage.say("Lives in Lisbon near the river", run_id="r1")
    stage.to_spectron()
    stage.step("closing")
    stage.complete()
    return stage


@pytest.fixture
def by_org(stage: Stage) -> Stage:
    """A completed migration whose users lie below their organisations, as a table says."""
    write_table(stage.folder, **{stage.user: "acme"})
    return completed(stage, BY_ORG)


def refuses_everything(stage: Stage, adapter: Any, **more: str) -> None:
    """Neither reads nor writes of the user."""
    before = turns(stage)
    for call in (
        lambda: adapter.search("green tea", **mine(stage, **more)),
        lambda: adapter.get_all(**mine(stage, **more)),
        lambda: adapter.add("Now drinks oolong tea", user_id=stage.user, **more),
    ):
        with pytest.raises(InputError, match=r"the mapping is not the one|no rule maps"):
            call()
    assert before == turns(stage)


def change_the_rules(stage: Stage) -> None:
    (stage.folder / "mapping.yaml").write_text(BY_TENANT)


def move_the_user(stage: Stage) -> None:
    write_table(stage.folder, **{stage.user: "globex"})


def forget_the_user(stage: Stage) -> None:
    write_table(stage.folder, somebody="acme")


def drop_the_mapping(stage: Stage) -> None:
    stage.write_settings()


@pytest.mark.parametrize("change", [change_the_rules, move_the_user, forget_the_user, drop_the_mapping])
def test_a_user_whose_memories_lie_elsewhere_is_neither_read_nor_written(by_org: Stage, change: Change) -> None:
    change(by_org)
    refuses_everything(by_org, by_org.adapter(Untouchable()))


@pytest.mark.ledger_file  # it takes the file away
def test_without_the_ledger_changed_rules_are_refused_by_what_the_routing_says(by_org: Stage) -> None:
    change_the_rules(by_org)
    for path in by_org.state.glob("ledger.db*"):
        path.unlink()
    refuses_everything(by_org, by_org.adapter(Untouchable()))


def test_a_table_may_grow(by_org: Stage, caplog: pytest.LogCaptureFixture) -> None:
    write_table(by_org.folder, **{by_org.user: "acme", f"new-{by_org.user}": "globex"})
    adapter = by_org.adapter(Untouchable())
    assert TEA in texts(adapter.search("green tea", **mine(by_org)))
    adapter.add("Now drinks oolong tea", user_id=by_org.user, infer=False)
    adapter.add("Has a cat", user_id=f"new-{by_org.user}", infer=False)
    assert ["Has a cat"] == texts(adapter.search("cat", filters={"user_id": f"new-{by_org.user}"}))


@pytest.mark.ledger_file  # it takes the file away
def test_without_the_ledger_a_table_that_differs_is_warned_of(by_org: Stage, caplog: pytest.LogCaptureFixture) -> None:
    write_table(by_org.folder, **{by_org.user: "acme", f"new-{by_org.user}": "globex"})
    for path in by_org.state.glob("ledger.db*"):
        path.unlink()
    adapter = by_org.adapter(Untouchable())
    for _ in range(2):
        assert TEA in texts(adapter.search("green tea", **mine(by_org)))
    assert 1 == sum("tables" in record.message for record in caplog.records)


def test_a_user_that_came_after_the_cutover_is_held_to_where_they_were_written(by_org: Stage) -> None:
    new = f"new-{by_org.user}"
    write_table(by_org.folder, **{by_org.user: "acme", new: "globex"})
    by_org.adapter(Untouchable()).add("Has a cat", user_id=new, infer=False)
    write_table(by_org.folder, **{by_org.user: "acme", new: "acme"})
    adapter = by_org.adapter(Untouchable())
    with pytest.raises(InputError, match="mapping"):
        adapter.add("Has a dog", user_id=new, infer=False)
    with pytest.raises(InputError, match="mapping"):
        adapter.search("cat", filters={"user_id": new})
    assert TEA in texts(adapter.search("green tea", **mine(by_org)))


def test_a_shared_node_that_moved_is_missed_by_those_whose_memories_lie_there(stage: Stage) -> None:
    done = completed(stage, KNOWLEDGE.replace("NODE", stage.user))
    (stage.folder / "mapping.yaml").write_text(KNOWLEDGE.replace("NODE", f"not-{stage.user}"))
    refuses_everything(done, done.adapter(Untouchable()))
    others = done.adapter(Untouchable())
    others.add("Has a cat", user_id=f"new-{stage.user}", infer=False)


def test_the_rules_of_another_mapping_that_look_where_the_memories_lie_are_good(stage: Stage) -> None:
    done = completed(stage, KNOWLEDGE.replace("NODE", stage.user))
    text = KNOWLEDGE.replace("NODE", stage.user) + "    category: identity\n"
    (stage.folder / "mapping.yaml").write_text(text)
    assert TEA in texts(done.adapter(Untouchable()).search("green tea", **mine(done)))


def test_a_memory_that_lies_deeper_than_before_is_missed_only_by_who_asks_there(stage: Stage) -> None:
    done = completed(stage, 'version: 1\nrules:\n  - when: {user_id: "*"}\n    scope: {user: "{user_id}"}\n')
    (stage.folder / "mapping.yaml").write_text(
        'version: 1\nrules:\n  - when: {user_id: "*", run_id: "*"}\n    scope: {user: "{user_id}", run: "{run_id}"}\n'
        '  - when: {user_id: "*"}\n    scope: {user: "{user_id}"}\n'
    )
    adapter = done.adapter(Untouchable())
    assert TEA in texts(adapter.search("green tea", **mine(done)))


def test_the_asynchronous_adapter_refuses_it_too(by_org: Stage) -> None:
    move_the_user(by_org)

    async def run() -> None:
        adapter = by_org.async_adapter(Untouchable())
        with pytest.raises(InputError, match="mapping"):
            await adapter.add("Now drinks oolong tea", by_org.user, infer=False)
        with pytest.raises(InputError, match="mapping"):
            await adapter.search("green tea", by_org.user)
        with pytest.raises(InputError, match="mapping"):
            await adapter.get_all(user_id=by_org.user)

    asyncio.run(run())


def test_the_ledger_is_read_once_not_at_every_call(by_org: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(by_org.folder, **{by_org.user: "acme", "somebody": "globex"})
    adapter = by_org.adapter(Untouchable())
    adapter.search("green tea", **mine(by_org))
    opened: list[Any] = []
    monkeypatch.setattr(Ledger, "open_for_reading", lambda *given: opened.append(given))
    for _ in range(5):
        adapter.search("green tea", **mine(by_org))
    assert [] == opened


@pytest.mark.parametrize("where", [".", "beside the settings"])
def test_a_mapping_that_lies_there_and_is_not_in_force_is_warned_of(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (stage.folder / "mapping.yaml").write_text(BY_TENANT)
    named: dict[str, Any] = {}
    if where != ".":
        (stage.folder / "elsewhere").mkdir()
        monkeypatch.chdir(stage.folder / "elsewhere")
        named = {"config": stage.folder / "spectron-migrate.yaml"}
    with caplog.at_level(logging.WARNING, "spectron_migrate.adapter"):
        stage.adapter(**named)
    (said,) = [record.message for record in caplog.records if "mapping.yaml" in record.message]
    assert str(stage.folder / "mapping.yaml") in said


def test_a_mapping_that_is_in_force_is_not_warned_of(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    (stage.folder / "mapping.yaml").write_text(BY_TENANT)
    (stage.folder / "same").mkdir()
    stage.write_settings({"mapping": "mapping.yaml"})
    with caplog.at_level(logging.WARNING, "spectron_migrate.adapter"):
        stage.adapter()
        stage.adapter(mapping="mapping.yaml")
    assert [] == [record.message for record in caplog.records if "mapping.yaml" in record.message]
