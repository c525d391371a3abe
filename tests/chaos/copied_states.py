"""State directories that are copied at a random moment and used later: a restored backup, a second host.

    python tests/chaos/copied_states.py [--plays 60] [--seed 0]

In each play real replays write to a real server through the fault layer, some of them killed. In one of them, at a
random request, the state directory is copied; the run goes on. Perhaps others follow, Mem0 changes, and a day passes,
so that the server has forgotten the idempotency keys. Then the copy is put back in the place of the original, or used
beside it, perhaps at the same moment; or all ledgers are lost, and a fresh one begins. Whatever is refused is refused
with exit code 2 or 10 and a hint, which is then typed: `--state` with the ledger that wrote last, or, where that is
gone, `--adopt`. At the end no version of a memory may have two turns, and where one ledger knows everything, none may
be missing and none out of order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.chaos.replay_chaos import PRINCIPALS, Corner, World
from tests.support.copies import copy_state
from tests.support.oracle import Turn, check_lane_order, find_violations, is_adopted, ledger_facts, server_turns
from tests.support.proxy import Fault, Seen, serving

CORNERS = (
    Corner("as published"),
    Corner("short sessions, one for each run", mapping="session: {by: run_id, size: 5}"),
    Corner("text only", mapping="infer: none"),
    Corner("text only, many a request", mapping="infer: none\nwrite: batch", requests=14),
    Corner("a known scope is 201 again", {"reregister": 201}),
    Corner("API 0.2.1", server={"api": "0.2.1"}),
)
REFUSED = (ExitCode.INPUT, ExitCode.NOT_LEGAL)
DONE = (0, 3, 7, 8)
"""Codes of a run that was not refused; in fair weather it is begun again until it ends with 0."""
CLEAR_RUNS = 6


@dataclass
class Ended:
    """One run that ended."""

    code: int
    answer: dict[str, Any]

    @property
    def hint(self) -> str:
        """What to do, of a run that was refused."""
        return str(self.answer.get("error", {}).get("hint") or "")


@dataclass
class Play:
    """One play; `told` counts what happened."""

    folder: Path
    server: RunningServer
    world: World
    url: str
    dice: random.Random
    told: Counter[str] = field(default_factory=Counter)

    def begin(self, state: str, *more: str) -> subprocess.Popen[bytes]:
        """A replay of the dump from a state directory, in fair weather."""
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": PRINCIPALS[self.world.principal]["key"],
            "SPECTRON_ENDPOINT": self.server.base_url,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        command = [sys.executable, "-m", "spectron_migrate", "replay", "--config", "settings.yaml", "--json"]
        return subprocess.Popen(
            [*command, "--state", state, *more],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait(self, process: subprocess.Popen[bytes], what: str) -> Ended:
        """How it ended; a refusal says what to do, and writes nothing where its ledger was alone at work."""
        out, said = process.communicate(timeout=300)
        code = process.returncode
        assert code in (*DONE, *REFUSED), (what, code, out[-2000:], said[-2000:])
        ended = Ended(code, json.loads(out))
        self.told[f"{what} ended with {code}"] += 1
        if code in REFUSED:
            assert re.search(r"--state|--adopt", ended.hint), (what, ended.answer)
        return ended

    def replay(self, state: str, what: str, *more: str) -> Ended:
        """One run after the other, until it is done or refused."""
        for _ in range(CLEAR_RUNS):
            before = len(server_turns(self.server.database))
            ended = self.wait(self.begin(state, *more), what)
            if ended.code in REFUSED:
                assert before == len(server_turns(self.server.database)), (what, ended.answer)
                break
            if ended.code == 0:
                break
            if ended.code == ExitCode.REFUSED and "--retry-failed" not in more:  # by the weather
                more = (*more, "--retry-failed")
        return ended

    def check_none_doubled(self, *states: str) -> None:
        """Over all ledgers no version has two turns, and no turn is nobody's."""
        turns: dict[tuple[str, int], set[str]] = {}
        unsure: set[str] = set()
        known: set[str] = set()
        for state in states:
            for fact in ledger_facts(self.folder / state):
                known |= {fact["candidate"] or "", *fact["residue"]}
                if fact["state"] in ("intended", "undecidable"):
                    unsure.add(fact["server_id"])
                if fact["turn_id"]:
                    turns.setdefault((fact["mem0_id"], int(fact["version"])), set()).add(fact["turn_id"])
        doubled = {name: ids for name, ids in turns.items() if len(ids) > 1}
        assert {} == doubled, doubled
        known = known.union(*turns.values())
        nobodys = [
            turn for turn in server_turns(self.server.database) if turn.id not in known and turn.session not in unsure
        ]
        assert [] == nobodys, nobodys

    def check_all(self, state: str) -> None:
        """One ledger knows everything: each memory once, in order, in its scope."""
        wrong = self.violations(state)
        assert [] == wrong, "\n".join(wrong)

    def violations(self, state: str) -> list[str]:
        """What the oracle finds on the server's own tables, of one ledger."""
        mapping, memories = load_mapping(self.world.mapping), self.world.mem0.values()
        return find_violations(self.server.database, self.folder / state, memories, mapping, finished=True)

    def check_adopted(self, state: str, *lost: str) -> None:
        """As `check_all`, and by the ledgers that are lost: each memory once and in order, whoever sent it.

        A turn with a text that Mem0 has replaced or deleted since may stay unknown: nothing leads to it.
        """
        turns = {turn.id: turn for turn in server_turns(self.server.database)}
        facts = [fact for each in (state, *lost) for fact in ledger_facts(self.folder / each)]
        mem0 = self.world.mem0
        old = {(fact["mem0_id"], fact["text"], fact["selector"]) for fact in facts if fact["text"]}
        stale = Counter(text for id_, text, _ in old if id_ not in mem0 or mem0[id_].memory != text)
        wrong = self.violations(state)
        unknown = [
            turn for turn in turns.values() if any("nobody claims" in each and turn.id in each for each in wrong)
        ]
        if not Counter(turn.text for turn in unknown) - stale:
            named = [turn.id for turn in unknown] + [f"session {turn.session} " for turn in unknown]
            wrong = [each for each in wrong if not any(name in each for name in named)]
        for each in lost:
            own = [fact for fact in ledger_facts(self.folder / each) if not is_adopted(fact)]
            wrong += check_lane_order(own, turns)
        wrong += self.wrong_last_texts(state, facts, turns)
        assert [] == wrong, "\n".join(wrong)

    def wrong_last_texts(self, state: str, facts: list[dict[str, Any]], turns: dict[str, Turn]) -> list[str]:
        """Lanes in which what superseded last is not the newest text; `facts` of all ledgers.

        Of equal texts the newest may have been sent again, after older ones: what counts is what stands at the end.
        """
        current = {(memory.id, memory.memory) for memory in self.world.mem0.values()}
        facts = [fact for fact in facts if (fact["mem0_id"], fact["text"]) in current and fact["infer"] == "full"]
        newest: dict[str, dict[str, Any]] = {}
        for fact in ledger_facts(self.folder / state):
            is_current = (fact["mem0_id"], fact["text"]) in current and fact["infer"] == "full"
            if is_current and fact["turn_id"] and fact["order_key"] >= newest.get(fact["lane"], fact)["order_key"]:
                newest[fact["lane"]] = fact
        last: dict[str, tuple[int, str]] = {}
        for fact in facts:
            if fact["turn_id"] in turns and not is_adopted(fact):
                turn = turns[fact["turn_id"]]
                last[fact["lane"]] = max(last.get(fact["lane"], (0, "")), (turn.arrived, turn.text))
        return [
            f"{lane}: {last[lane][1]} came last, and {fact['text']} is the newest"
            for lane, fact in newest.items()
            if lane in last and last[lane][1] != fact["text"]
        ]


def copy_in_a_run(play: Play, corner: Corner) -> None:
    """A run in weather during which the state is copied; sometimes it is killed later."""
    world, dice = play.world, play.dice
    at = dice.randint(4, max(5, corner.requests))
    requests = 0
    choose = world.watch.choose

    def copying(seen: Seen) -> Fault:
        nonlocal requests
        requests += 1
        if requests == at:
            copy_state(play.folder / "state", play.folder / "copy")
            play.told["copied in a run"] += 1
        return choose(seen)

    world.watch.choose = copying
    try:
        world.scan()
        if dice.random() < 0.4:
            world.replay(play.url, chance=0.02, kill_at=at + dice.randint(1, 40), victim="replay")
        else:
            world.replay(play.url, chance=0.02)
    finally:
        world.watch.choose = choose
    if not (play.folder / "copy").exists():
        copy_state(play.folder / "state", play.folder / "copy")
        play.told["copied between runs"] += 1


def one_play(folder: Path, corner: Corner, dice: random.Random) -> Counter[str]:
    """One copy, and what comes of it. Raises AssertionError."""
    options = {**corner.server, "reading": corner.reading, "fault_settings": {}, "principals": PRINCIPALS}
    with running_server(folder / "spectron", context="chaos", **options) as server:
        world = World(folder, server, corner, dice)
        with serving(world) as url:
            play = Play(folder, server, world, url, dice)
            for _ in range(dice.choice([0, 1, 1, 2])):
                world.grow(20)
                world.scan()
                world.replay(url, chance=0.0)
            world.grow(40)
            copy_in_a_run(play, corner)
            for _ in range(dice.choice([0, 0, 1, 2])):
                world.grow(10)
                if dice.random() < 0.3:
                    world.change()
                world.scan()
                world.replay(url, chance=0.0)
            if dice.random() < 0.3:
                world.grow(10)
            world.scan()
            if dice.random() < 0.7:
                world.pass_a_day(url)
                play.told["a day passed"] += 1
            assert [] == world.watch.wrong + world.proxy.wrong
            use_the_copy(play, corner)
    return play.told


def use_the_copy(play: Play, corner: Corner) -> None:
    """Put it back, use it beside the original, or both at the same moment."""
    ways = ["put back", "put back", "beside", "all ledgers lost"]
    if "many a request" not in corner.name:  # batches that are cut in other places have other keys
        ways.append("at the same moment")
    way = play.dice.choice(ways)
    play.told[way] += 1
    if way == "all ledgers lost":
        ended = play.replay("fresh", "a fresh ledger")
        assert ended.code in REFUSED, ended
        adopt_in_place_of(play, "fresh", "state", "copy")
        return
    if way == "put back":
        (play.folder / "state").rename(play.folder / "original")
        (play.folder / "copy").rename(play.folder / "state")
        copy, original = "state", "original"
    else:
        copy, original = "copy", "state"
    if way == "at the same moment":
        running = [play.begin(state) for state in (original, copy)]
        first = [
            play.wait(process, f"at the same moment: {name}")
            for process, name in zip(running, ("original", "copy"), strict=True)
        ]
        play.check_none_doubled(original, copy)
        if all(each.code in REFUSED for each in first):
            play.told["both refused"] += 1
    ended = play.replay(copy, "the copy")
    play.check_none_doubled(original, copy)
    if ended.code not in REFUSED:
        play.check_all(copy) if ended.code == 0 else None
        ended = play.replay(original, "the original after it")
        play.check_none_doubled(original, copy)
        if ended.code in REFUSED:  # the copy wrote last, and the hint names it
            ended = play.replay(copy, "the copy, as the hint says")
        assert 0 == ended.code, ended
        play.check_none_doubled(original, copy)
        return
    if play.dice.random() < 0.5:
        adopt_in_place_of(play, copy, original)
        return
    ended = play.replay(original, "the original, as the hint says")
    play.check_none_doubled(original, copy)
    if ended.code in REFUSED:
        play.told["each wrote what the other does not know"] += 1
        assert "--adopt" in ended.hint, ended
        adopt_in_place_of(play, original, copy)
    else:
        assert 0 == ended.code, ended
        play.check_all(original)
        play.told["none doubled, none lost"] += 1


def adopt_in_place_of(play: Play, state: str, *others: str) -> None:
    """A ledger that was refused takes over what is there; the others are gone, until somebody finds one of them."""
    lost = [f"lost {other}" for other in others]
    for other, name in zip(others, lost, strict=True):
        (play.folder / other).rename(play.folder / name)
    before = len(server_turns(play.server.database))
    ended = play.replay(state, "with --adopt, as the hint says", "--adopt")
    assert 0 == ended.code, ended
    play.check_adopted(state, *lost)
    play.told["turns before an adoption"] += before
    play.told["adopted, none doubled, none lost"] += 1
    again = len(server_turns(play.server.database))
    ended = play.replay(state, "after an adoption")
    assert 0 == ended.code, ended
    assert again == len(server_turns(play.server.database))
    for name in lost:
        ended = play.wait(play.begin(name), "a ledger that was lost and found")
        assert ended.code in (0, ExitCode.REFUSED, *REFUSED), ended  # a memory may be refused there since the weather
        assert again == len(server_turns(play.server.database)), (name, ended)


def run(plays: int, seed: int, report: Callable[[str], None], corners: tuple[Corner, ...] = CORNERS) -> Counter[str]:
    """So many plays, shared among the corners."""
    total: Counter[str] = Counter()
    for number in range(plays):
        corner, began = corners[number % len(corners)], time.monotonic()
        dice = random.Random(f"{seed} {number}")
        with tempfile.TemporaryDirectory() as name:
            try:
                told = one_play(Path(name), corner, dice)
            except BaseException:
                report(f"play {number} of seed {seed}, {corner.name}")
                shutil.copytree(name, f"{name}.failed")
                raise
        total += told
        report(f"{number} {corner.name}: {', '.join(sorted(told))}, {time.monotonic() - began:.0f} s")
    return total


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plays", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    told = run(options.plays, options.seed, lambda line: print(line, flush=True))
    print(json.dumps(dict(sorted(told.items())), indent=1))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
