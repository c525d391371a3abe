"""What changed on the Platform: all of it is found by a few requests, or it is said that all has to be read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from spectron_migrate.mem0.open import open_reader
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.served import platform_changes, platform_listing
from spectron_migrate.records import Memory, format_time
from tests.mem0.standins import KEY, Platform, serving
from tests.support.changes import Texts, changed_at, texts_after

pytestmark = pytest.mark.slow
NOW = datetime(2026, 5, 4, tzinfo=UTC)


class Project:
    """A project of the Platform, with a clock that the test moves."""

    def __init__(self, opened: ExitStack, count: int) -> None:
        self.moment = NOW
        self.platform = Platform([])
        self.platform.clock = lambda: self.moment.timestamp()
        self.opened = opened
        url = opened.enter_context(serving(self.platform))
        self.section = {"platform": {"base_url": url, "api_key": KEY}}
        for number in range(count):
            self.put(number, f"thing {number}", at=NOW - timedelta(hours=1 + count - number))

    def put(self, number: int, text: str, *, at: datetime | None = None) -> None:
        """Add a memory, or edit it; `at` in place of now."""
        stamp = format_time(at or self.moment)
        mem0_id = id_of(number)
        created = self.platform.memories[mem0_id]["created_at"] if mem0_id in self.platform.memories else stamp
        self.platform.memories[mem0_id] = {
            "id": mem0_id,
            "memory": text,
            "user_id": "alice",
            "created_at": created,
            "updated_at": stamp,
        }

    def drop(self, number: int) -> None:
        del self.platform.memories[id_of(number)]

    def pass_(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def read(self) -> tuple[Texts, ChangesReader | None]:
        with open_reader(self.section, now=NOW, sleep=lambda _: None) as reader:
            texts = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
            assert 0 == reader.missing()
            changes = reader.changes()
            if changes is not None:
                self.opened.callback(changes.close)
            return texts, changes


def id_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(platform_listing, "PAGE", 10)
    with ExitStack() as opened:
        yield opened


def follow(project: Project) -> tuple[Texts, ChangesReader]:
    texts, changes = project.read()
    assert changes is not None
    return texts, changes


def test_what_is_new_or_edited_is_found_with_a_handful_of_requests(opened: ExitStack) -> None:
    project = Project(opened, 300)
    texts, changes = follow(project)
    project.pass_(30)
    project.put(3, "edited")
    project.put(500, "new")
    project.pass_(1)
    project.platform.asked.clear()
    found = changed_at(changes, NOW)
    assert project.read()[0] == texts_after(texts, found)
    assert {id_of(3), id_of(500)} == {memory.id for memory in found.memories}
    assert 301 == found.native_count


def test_no_more_requests_are_sent_than_a_few(opened: ExitStack) -> None:
    project = Project(opened, 300)
    _, changes = follow(project)
    project.pass_(300)
    project.platform.asked.clear()
    assert [] == changed_at(changes, NOW).memories
    assert len(project.platform.asked) <= 4


def test_a_filter_that_finds_no_edit_is_not_relied_on(opened: ExitStack) -> None:
    project = Project(opened, 30)
    project.platform.filters_by_edits = False
    assert project.read()[1] is None


def test_a_deletion_means_reading_everything(opened: ExitStack) -> None:
    project = Project(opened, 30)
    _, changes = follow(project)
    project.pass_(30)
    project.drop(3)
    assert changes.changed(now=NOW) is None


def test_a_deletion_is_not_hidden_by_an_addition(opened: ExitStack) -> None:
    project = Project(opened, 30)
    _, changes = follow(project)
    project.pass_(30)
    project.drop(3)
    project.put(500, "new")
    project.pass_(1)
    assert changes.changed(now=NOW) is None


def test_an_edit_that_is_listed_late_is_found_by_the_overlap(opened: ExitStack) -> None:
    project = Project(opened, 30)
    texts, changes = follow(project)
    project.pass_(100)
    changed_at(changes, NOW)
    project.put(3, "edited", at=project.moment - timedelta(seconds=90))
    project.pass_(5)
    assert "edited" == texts_after(texts, changed_at(changes, NOW))[id_of(3)]


def test_rows_added_while_it_is_asked_cost_no_reading_of_everything(opened: ExitStack) -> None:
    project = Project(opened, 30)
    texts, changes = follow(project)
    project.pass_(10)

    def add(number: int) -> None:
        project.pass_(0.4)
        project.put(1000 + number, "meanwhile")

    project.platform.before_answer = add
    for _ in range(3):
        texts = texts_after(texts, changed_at(changes, NOW))
    project.platform.before_answer = lambda number: None
    project.pass_(5)
    assert project.read()[0] == texts_after(texts, changed_at(changes, NOW))


@pytest.mark.parametrize("fault", ["no filter", "filter without effect", "no time", "hidden", "no memory"])
def test_a_platform_that_does_not_prove_it_is_always_read_in_full(opened: ExitStack, fault: str) -> None:
    project = Project(opened, 30)
    platform = project.platform
    if fault == "no filter":
        platform.filters_by_time = False
    elif fault == "no time":
        platform.memories[id_of(3)]["created_at"] = None
    elif fault == "hidden":
        platform.hidden = lambda row: row["id"] == id_of(3)
    elif fault == "no memory":
        platform.memories[id_of(3)]["memory"] = None
    else:
        list_all = platform._list
        platform._list = lambda page, size, body: list_all(  # type: ignore[method-assign]
            page, size, {**body, "filters": platform_listing.ANY_OWNER}
        )
    with open_reader(project.section, now=NOW, sleep=lambda _: None) as reader:
        list(reader.rows())
        changes = reader.changes()
    if changes is not None:
        opened.callback(changes.close)
        assert changes.changed(now=NOW) is None


def test_more_than_a_few_thousand_changes_mean_reading_everything(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_changes, "MOST_CHANGED", 5)
    project = Project(opened, 30)
    _, changes = follow(project)
    project.pass_(10)
    for number in range(6):
        project.put(number, "edited")
    assert changes.changed(now=NOW) is None


def test_trouble_on_the_way_is_waited_out(opened: ExitStack) -> None:
    project = Project(opened, 30)
    texts, changes = follow(project)
    project.platform.trouble.every = 2
    project.pass_(10)
    project.put(3, "edited")
    assert "edited" == texts_after(texts, changed_at(changes, NOW))[id_of(3)]


@pytest.mark.parametrize("seed", range(6))
def test_plays_of_an_application_are_followed_exactly(opened: ExitStack, seed: int) -> None:
    dice = random.Random(seed)
    project = Project(opened, dice.choice((1, 30, 120)))
    texts, changes = follow(project)
    known = 0
    for _ in range(20):
        project.pass_(dice.choice((2, 10, 60, 300)))
        for _ in range(dice.choice((0, 0, 1, 3, 20))):
            number = dice.randrange(200)
            if dice.random() < 0.1 and id_of(number) in project.platform.memories:
                project.drop(number)
            else:
                project.put(
                    number, f"said {dice.random()}", at=project.moment - timedelta(seconds=dice.choice((0, 30)))
                )
        project.pass_(1)
        found = changes.changed(now=NOW)
        now, fresh = project.read()
        assert fresh is not None
        if found is None:
            texts, changes = now, fresh
            continue
        known += 1
        texts = texts_after(texts, found)
        assert now == texts
        assert len(now) == found.native_count
    assert known > 5
