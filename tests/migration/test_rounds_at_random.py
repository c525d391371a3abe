"""An application that does anything at any time, a network that fails, processes that die: judged by the oracle."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.dump import changes_writer
from spectron_migrate.errors import MigrateError
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.rounds import Rounds
from spectron_migrate.records import Memory
from tests.support import oracle
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.scene import PgStore, Scene, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
FAULTS: tuple[Fault, ...] = ("cut_before", "cut_after", "half_answer", "500_before", "500_after", "503", "429")


class Application:
    """Writes to the store of a scene as its dice say."""

    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self.scene, self.dice, self.number = scene, dice, 0
        self.living: dict[int, tuple[str, str]] = {}

    def act(self) -> None:
        """One call, some of them with a time that is late, in the future, or missing."""
        dice, scene = self.dice, self.scene
        chance = dice.random()
        if chance < 0.55 or not self.living:
            self.number += 1
            user, text = dice.choice("ab"), f"thing {self.number} of somebody"
            ago = dice.choice((0, 0, 0, 1, 5, 90, 4000, -50))
            self.living[self.number] = (user, text)
            self._put(self.number, ago=ago)
        elif chance < 0.75:
            number = dice.choice(sorted(self.living))
            user, text = self.living[number]
            self.living[number] = (user, f"{text}, changed")
            self._put(number, ago=500, edited=scene.time.moment)
        elif chance < 0.85:
            self._put(dice.choice(sorted(self.living)), ago=500, edited=scene.time.moment, topic=dice.random())
        else:
            number = dice.choice(sorted(self.living))
            del self.living[number]
            scene.store.drop(number)

    def _put(self, number: int, *, ago: float, **more: object) -> None:
        user, text = self.living[number]
        at = self.scene.time.moment - timedelta(seconds=ago)
        self.scene.store.put(number, text, f"{self.scene.user}{user}", at, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_all_of_mem0_is_in_spectron_once_and_in_order(tmp_path: Path, seed: int) -> None:
    play(tmp_path, Store(tmp_path / "mem0"), seed)


@pytest.mark.parametrize("seed", range(5, 7))
def test_of_a_table_of_postgres_as_well(tmp_path: Path, postgres: str, seed: int) -> None:
    play(tmp_path, PgStore(tmp_path / "mem0", address=postgres), seed)


@pytest.fixture(autouse=True)
def files_of_changes_are_folded_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_writer, "MOST_FILES", 2)


def play(tmp_path: Path, store: Store, seed: int) -> None:
    dice = random.Random(seed)

    def choose(seen: Seen) -> Fault:
        return dice.choice(FAULTS) if seen.path.endswith("/facts") and dice.random() < 0.15 else "none"

    with server_here(tmp_path / "data", context="tests") as server, misbehaving(server.base_url, choose) as proxy:
        scene = Scene(store, server, tmp_path, "user")
        scene.endpoint = proxy.base_url
        application, rounds = Application(scene, dice), scene.rounds()
        for _ in range(18):
            for _ in range(dice.randrange(6)):
                application.act()
            scene.time.pass_(dice.choice((1, 5, 20, 70)))
            rounds = one_round(scene, rounds, dice)
        proxy.choose = lambda seen: "none"
        scene.time.pass_(200)
        for _ in range(6):
            one_round(scene, rounds, dice, kills=False)
            scene.time.pass_(100)
        last = scene.round(rounds, compare=True)
        assert 0 == last.missed
        assert not [warning for warning in scene.reporter.warnings if "did not show" in warning]
        assert last.compared is not None
        assert (0, 0, 0) == (last.compared.total, last.waiting, last.left.total)
        with scene.store.open(scene.time.now()) as reader:
            memories = [row for row in reader.rows() if isinstance(row, Memory)]
        assert len(application.living) == len(memories)
        assert [] == oracle.find_violations(server.database, scene.state, memories, load_mapping(None))


def one_round(scene: Scene, rounds: Rounds, dice: random.Random, *, kills: bool = True) -> Rounds:
    """A round, which may fail, by the same process or by another one that knows nothing of it."""
    try:
        scene.round(rounds, compare=dice.random() < 0.3)
    except MigrateError:
        return scene.rounds()
    return scene.rounds() if kills and dice.random() < 0.4 else rounds
