"""The limiter finds its own pace from what the server says, in words and in time."""

from __future__ import annotations

import asyncio

import pytest

from spectron_migrate.delivery.brake import Brake, Stopping
from spectron_migrate.delivery.limiter import FIRST_OF_ALL, START, Kind, Limiter
from tests.delivery.support import Server, limiter, load, lognormal, now, play

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it has no state

SECONDS = 60


def run(server: Server, *, max_in_flight: int = 64, lanes: int = 200, seconds: float = SECONDS) -> Limiter:
    """A minute of load on a server."""

    async def main() -> Limiter:
        found = limiter(max_in_flight)
        await load(server, found, lanes=lanes, seconds=seconds)
        return found

    return play(main())


@pytest.mark.parametrize("slots", [3, 16, 50])
@pytest.mark.parametrize("rejects", [True, False])
def test_it_finds_what_a_server_can_do_and_uses_it(slots: int, rejects: bool) -> None:
    server = Server(slots, rejects=rejects)
    run(server)
    assert server.share_between(3, SECONDS) >= 0.95
    assert server.rejected / server.answered < 0.05


@pytest.mark.parametrize("slots", [16, 30])
@pytest.mark.parametrize("rejects", [True, False])
def test_it_follows_a_server_whose_capacity_halves_and_comes_back(slots: int, rejects: bool) -> None:
    server = Server(slots, rejects=rejects)

    async def main() -> None:
        found = limiter(64)
        running = asyncio.create_task(load(server, found, lanes=200, seconds=90))
        await asyncio.sleep(30)
        server.slots //= 2
        await asyncio.sleep(30)
        server.slots *= 2
        await running

    play(main())
    whole, half = slots / 0.1, slots // 2 / 0.1
    assert sum(server.each_second[second] for second in range(35, 60)) >= 0.9 * 25 * half
    assert sum(server.each_second[second] for second in range(70, 90)) >= 0.9 * 20 * whole
    assert server.rejected / server.answered < 0.05


@pytest.mark.parametrize("slots", [8, 32, 100])
def test_a_server_that_slows_more_than_in_proportion_is_not_overwhelmed(slots: int) -> None:
    server = Server(slots, drag=1.5)
    run(server, max_in_flight=256, lanes=400)
    assert server.share_between(10, SECONDS) >= 0.83


def test_a_server_that_chokes_on_too_much_is_not_choked() -> None:
    server = Server(32, drag=2.5)
    run(server, max_in_flight=256, lanes=400)
    assert server.share_between(15, SECONDS) >= 0.7


def test_however_long_answers_take_a_few_are_in_flight() -> None:
    assert run(Server(1), lanes=20).limit >= START


def test_requests_do_not_pile_up_at_a_server_that_lets_them_wait() -> None:
    server = Server(16)
    found = run(server, max_in_flight=512, lanes=600)
    assert found.limit <= 32


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_latencies_that_differ_from_text_to_text_do_not_strangle_it(seed: int, sigma: float) -> None:
    server = Server(10_000, noise=lognormal(seed, sigma))
    run(server)
    assert sum(server.each_second[second] for second in range(5, SECONDS)) >= 0.9 * (SECONDS - 5) * 64 / 0.1


@pytest.mark.parametrize("seed", range(2))
def test_with_noise_it_still_finds_the_capacity(seed: int) -> None:
    server = Server(16, noise=lognormal(seed, 0.7))
    run(server, max_in_flight=256, lanes=400)
    assert server.share_between(5, SECONDS) >= 0.9
    assert server.most_waiting < 128


def test_a_server_that_becomes_slower_by_itself_is_not_sent_less_and_less() -> None:
    server = Server(10_000)

    async def main() -> Limiter:
        found = limiter(64)
        running = asyncio.create_task(load(server, found, lanes=200, seconds=60))
        await asyncio.sleep(20)
        server.latency_s *= 4
        await running
        return found

    found = play(main())
    assert 64 == found.limit


def test_it_starts_small_and_grows_to_its_limit_while_all_goes_well() -> None:
    server = Server(10_000)

    async def main() -> tuple[float, float, float]:
        found = limiter(64)
        first = found.limit
        await load(server, found, lanes=200, seconds=1.0)
        return first, found.limit, server.each_second[0]

    first, last, _ = play(main())
    assert float(START) == first
    assert 64.0 == last


def test_it_begins_where_the_last_run_ended_within_its_own_maximum() -> None:
    async def main() -> tuple[float, ...]:
        return tuple(limiter(64, known=known).limit for known in (None, 1.0, 40.0, 200.0))

    assert (START, START, 40.0, 64.0) == play(main())


def test_answers_that_prepare_writes_make_it_grow_too() -> None:
    async def main() -> float:
        found = limiter(64)

        async def one() -> None:
            async with found.slot(Kind.SESSION) as slot:
                await asyncio.sleep(0.05)
                found.note_success(slot)

        await asyncio.gather(*(one() for _ in range(200)))
        return found.limit

    assert 64.0 == play(main())


@pytest.mark.parametrize(("rejects", "drag", "share"), [(True, 0.0, 0.95), (False, 0.0, 0.95), (False, 1.5, 0.7)])
def test_answers_that_prepare_writes_do_not_show_how_many_writes_the_server_can_take(
    rejects: bool, drag: float, share: float
) -> None:
    server = Server(32, rejects=rejects, drag=drag)

    async def main() -> None:
        found = limiter(256)

        async def lane() -> None:
            for kind in (Kind.SCOPE, Kind.SESSION):
                async with found.slot(kind) as slot:
                    await asyncio.sleep(server.latency_s)
                    found.note_success(slot)
            await load(server, found, lanes=1, seconds=10)

        await asyncio.gather(*(lane() for _ in range(1000)))

    play(main())
    assert server.share_between(1, 10) >= share
    assert server.rejected / server.answered < 0.02
    assert server.most_waiting <= 64


@pytest.mark.parametrize("kind", [Kind.SESSION, Kind.SCOPE])
def test_what_prepares_writes_leaves_a_slot_to_the_first_of_them(kind: Kind) -> None:
    async def main() -> float:
        found = limiter(64)

        async def prepare() -> None:
            async with found.slot(kind):
                await asyncio.sleep(1.0)

        preparing = [asyncio.create_task(prepare()) for _ in range(10)]
        await asyncio.sleep(0.1)
        async with found.slot(Kind.WRITE):
            began = now()
        await asyncio.gather(*preparing)
        return began

    assert 0.1 == play(main())


def test_sessions_that_take_a_fraction_of_a_writes_time_do_not_make_writes_look_slow() -> None:
    async def main() -> Limiter:
        found = limiter(64)

        async def one(kind: Kind, takes_s: float) -> None:
            async with found.slot(kind) as slot:
                await asyncio.sleep(takes_s)
                found.note_success(slot)

        for _ in range(20):
            sessions = [one(Kind.SESSION, 0.01) for _ in range(100)]
            await asyncio.gather(*sessions, *(one(Kind.WRITE, 1.0) for _ in range(100)))
        return found

    found = play(main())
    assert 64.0 == found.limit
    assert 0 == found.queued


def test_a_write_goes_before_sessions_and_these_before_scopes() -> None:
    async def main() -> list[str]:
        found, order = limiter(4), []

        async def one(kind: Kind) -> None:
            async with found.slot(kind):
                order.append(kind.name)
                await asyncio.sleep(0.1)

        kinds = [Kind.WRITE] * 4 + [Kind.SCOPE, Kind.SCOPE, Kind.SESSION, Kind.WRITE]
        await asyncio.gather(*(one(kind) for kind in kinds))
        return order[4:]

    assert ["WRITE", "SESSION", "SCOPE", "SCOPE"] == play(main())


def test_of_the_writes_that_wait_the_greatest_rank_is_next_and_then_the_first() -> None:
    async def main() -> list[str]:
        found, order = limiter(1), []

        async def one(name: str, rank: float) -> None:
            async with found.slot(rank=rank):
                order.append(name)
                await asyncio.sleep(0.1)

        ranks = {"at once": 0, "short": 0, "long": 70, "short too": 0, "in doubt": FIRST_OF_ALL, "longer": 80}
        await asyncio.gather(*(one(name, rank) for name, rank in ranks.items()))
        return order

    assert ["at once", "in doubt", "longer", "long", "short", "short too"] == play(main())


def test_what_prepares_the_longest_lane_goes_before_the_writes_of_shorter_ones() -> None:
    async def main() -> list[str]:
        found, order = limiter(4), []

        async def one(name: str, kind: Kind, rank: float) -> None:
            async with found.slot(kind, rank=rank):
                order.append(name)
                await asyncio.sleep(0.1)

        at_work = [one(f"at work {number}", Kind.WRITE, 0) for number in range(4)]
        writes = [one(f"write {rank}", Kind.WRITE, rank) for rank in (60, 90, 60)]
        await asyncio.gather(*at_work, *writes, one("scope 90", Kind.SCOPE, 90), one("session 80", Kind.SESSION, 80))
        return order[4:]

    assert ["write 90", "scope 90", "session 80", "write 60", "write 60"] == play(main())


def test_scopes_leave_half_of_the_slots_to_the_lanes_that_have_theirs() -> None:
    async def main() -> list[float]:
        found, began = limiter(4), []

        async def register() -> None:
            async with found.slot(Kind.SCOPE):
                await asyncio.sleep(1.0)

        scopes = [asyncio.create_task(register()) for _ in range(10)]
        await asyncio.sleep(0.5)
        for kind in (Kind.SESSION, Kind.WRITE):
            async with found.slot(kind):
                began.append(now())
        await asyncio.gather(*scopes)
        return began

    assert [0.5, 0.5] == play(main())


def test_it_reports_why_it_is_slow_until_it_no_longer_is() -> None:
    server = Server(8, rejects=True)

    async def main() -> list[str]:
        found = limiter(64)
        said = [found.why]
        running = asyncio.create_task(load(server, found, lanes=100, seconds=20))
        await asyncio.sleep(10)
        said.append(found.why)
        server.slots = 1000
        await running
        await asyncio.sleep(31)
        said.append(found.why)
        said.append(found.summary or "")
        return said

    before, during, after, story = play(main())
    assert "" == before
    assert "" == after
    assert during.startswith("slowed down: ")
    assert "answers 429 in the last 30 s, 8 in flight" in during
    assert story.startswith(f"slowed down by {server.rejected} answers 429; ")


def test_it_says_that_answers_take_long() -> None:
    server = Server(10)

    async def main() -> str:
        found = limiter(64)
        await load(server, found, lanes=100, seconds=10)
        return found.why

    assert "times as long as at best" in play(main())


def test_a_server_that_lets_nobody_in_is_left_alone_as_long_as_it_asks() -> None:
    async def main() -> tuple[int, float]:
        found, tries = limiter(16), 0

        async def lane() -> float:
            nonlocal tries
            while True:
                async with found.slot() as slot:
                    tries += 1
                    await asyncio.sleep(0.01)
                    if now() >= 100:
                        found.note_success(slot)
                        return now()
                    found.slow_down("503", 30.0)
                    assert now() < 1 or "paused for" in found.why
                await asyncio.sleep(0.2)

        return tries, min(await asyncio.gather(*(lane() for _ in range(40))))

    tries, first = play(main())
    assert tries < 100
    assert 100 <= first < 130


def test_a_pause_that_a_server_asks_of_everybody_ends_with_the_time_that_was_set() -> None:
    async def main() -> float:
        brake = Brake(asyncio.sleep, clock=now, max_seconds=100.0)
        found = Limiter(max_in_flight=64, clock=now, sleep=brake.sleep)

        async def lane() -> None:
            while True:
                async with found.slot():
                    found.slow_down("503", 900.0)

        with pytest.raises(Stopping, match="the time limit was reached"):
            await lane()
        return now()

    assert pytest.approx(100.0) == play(main())


def test_a_set_rate_is_kept() -> None:
    async def main() -> float:
        found = limiter(64, max_rps=10.0)
        for _ in range(21):
            async with found.slot():
                pass
        return now()

    assert 2.0 == round(play(main()), 6)


def test_never_more_than_the_limit_are_in_flight() -> None:
    async def main() -> tuple[int, int]:
        found, highest = limiter(3), 0

        async def one() -> None:
            nonlocal highest
            async with found.slot() as slot:
                highest = max(highest, found.in_flight)
                await asyncio.sleep(0.1)
                found.note_success(slot)

        await asyncio.gather(*(one() for _ in range(50)))
        return highest, found.in_flight

    assert (3, 0) == play(main())


def test_a_waiter_that_is_cancelled_takes_no_slot_with_it() -> None:
    async def main() -> int:
        found = limiter(1)
        async with found.slot():
            waiting = asyncio.create_task(found.slot().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.sleep(0)
        async with found.slot():
            given = asyncio.create_task(found.slot().__aenter__())
            await asyncio.sleep(0)
        given.cancel()  # after it was given the place, before it could take it
        await asyncio.sleep(0)
        async with found.slot():
            return found.in_flight

    assert 1 == play(asyncio.wait_for(main(), 5))
