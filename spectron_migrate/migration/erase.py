"""Erases what a replay wrote, scope by scope, and only if nothing of anybody else is lost.

Spectron has no call that deletes one memory: `POST /scopes/forget` erases a node with everything below it. So a scope
is erased only if the ledger shows all of this: our own request (answered with 201) created its node, and ours created
all nodes below it; no memory of ours in it is also in a scope that stays; and every turn in our sessions there is ours.
Facts that others wrote there without a session of ours cannot be seen; the command says so.

The ledger notes each scope as begun before the call and as done after it. A scope whose erase was begun and is not done
blocks every replay until it is erased again. Afterwards its memories are planned again, under new keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.delivery.marker import is_marker
from spectron_migrate.errors import InputError, MigrateError, NotLegal, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, erasing
from spectron_migrate.ledger.cutover_note import refuse_lost_journal
from spectron_migrate.ledger.read.erases import begun_at, unfinished
from spectron_migrate.records import Json, counted, name_first, parse_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import Me, require_grant
from spectron_migrate.state.following import is_followed
from spectron_migrate.state.journal import FILE as JOURNAL_FILE
from spectron_migrate.state.journal import is_truncated, read_journal
from spectron_migrate.state.store import StateStore

CANNOT_SEE = "facts that others wrote to these scopes without a session of ours, and documents"
"""What an erase also removes, although it cannot see it."""
PASSAGES = 50


@dataclass(frozen=True, slots=True)
class Erasable:
    """A scope that may be erased, and what is erased with it."""

    path: str
    nodes: tuple[str, ...]
    """Registered nodes below it; they stay, but empty."""
    memories: int
    """Memories of ours in it, which are planned again afterwards."""
    sessions: tuple[str, ...]
    turns: int
    begun: bool
    """Whether an earlier erase of this scope was left unfinished."""

    def to_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "scope": self.path,
            "nodes": list(self.nodes),
            "memories": self.memories,
            "sessions": len(self.sessions),
            "turns": self.turns,
            "begun": self.begun,
        }


@dataclass
class _Examined:
    problems: list[str] = field(default_factory=list)
    turns: int = 0


class Eraser:
    """One erase: `examine` first, then `carry_out` for what a person confirmed."""

    def __init__(
        self,
        ledger: Ledger,
        api: SpectronApi,
        state: Path | StateStore,
        *,
        migration: str,
        now: str,
        reporter: Reporter,
    ) -> None:
        """`ledger`: open for writing. Raises WrongLedger if it is that of another migration."""
        self._ledger = ledger
        self._api = api
        self._state = state
        self._now = now
        self._reporter = reporter
        known = ledger.migration()
        if known is None or known.id != migration or known.context != api.context:
            found = f"{known.id} of context {known.context}" if known else "none"
            raise WrongLedger(
                f"the ledger at {ledger.path} is of migration {found}, not {migration} of context {api.context}",
                hint="is this the right directory, or the right --state? spectron-migrate status names its migration",
            )

    async def examine(self, paths: Sequence[str]) -> list[Erasable]:
        """Examine scopes without changing anything.

        Raises NotLegal naming every reason why erasing would not be exact, KeyRefused if grants are missing, and
        InputError for the root.
        """
        self._check_no_cutover()
        wanted = _outermost(path.strip("/") for path in paths)
        me = await self._api.me()
        _require_grants(me, wanted)
        listed = await self._list_nodes()
        problems = [one for path in wanted for one in self._problems(path, wanted, listed)]
        if problems:
            raise _not_exact_error(problems)
        found: list[Erasable] = []
        for path in wanted:
            examined = await self._examine_sessions(path)
            problems += examined.problems
            found.append(self._erasable(path, listed, examined.turns))
        if problems:
            raise _not_exact_error(problems)
        return found

    async def carry_out(self, chosen: Sequence[Erasable]) -> int:
        """Erase scopes that `examine` returned; returns how many rows the server reports as erased.

        Each scope is examined again right before it is erased, because the confirmation may have taken an hour. If it
        is killed, running it again finishes it. Raises NotLegal as `examine` does.
        """
        wanted = [scope.path for scope in chosen]
        forgotten = 0
        self._reporter.stage("erase")
        for scope in chosen:
            self._check_no_cutover()
            began_s = self._seconds_since_begun(scope.path)
            changed = self._problems(scope.path, wanted, await self._list_nodes())
            changed += (await self._examine_sessions(scope.path)).problems
            if changed:
                raise _not_exact_error(changed)
            with self._ledger.transaction():
                erasing.begin(self._ledger, scope.path, now=self._now)
            forgotten += await self._forget(scope, began_s)
            await self._check_erased(scope)
            with self._ledger.transaction():
                erasing.finish(self._ledger, scope.path, now=self._now)
            self._reporter.advance(1)
        return forgotten

    async def _forget(self, scope: Erasable, began_s: float | None) -> int:
        """Erase the scope, then wait until no erase request that was cut off can still arrive.

        It would erase what the next replay writes. Requests of earlier processes count too.
        """
        doubts = 0

        def note_doubt() -> None:
            nonlocal doubts
            doubts += 1

        forgotten = await self._api.forget_scope(scope.path, on_doubt=note_doubt)
        if doubts or began_s is not None:
            self._reporter.info("a call to erase was cut off and may still arrive: waiting until it cannot")
            await self._api.outlast_requests(0.0 if doubts or began_s is None else began_s)
        return forgotten

    def _seconds_since_begun(self, path: str) -> float | None:
        """How long ago an earlier process began to erase the scope; None if none did, or all finished."""
        began = begun_at(self._ledger, path)
        return (parse_time(self._now) - parse_time(began)).total_seconds() if began is not None else None

    # -- what prevents it ---------------------------------------------------------------------------------

    def _check_no_cutover(self) -> None:
        """Raises NotLegal during a cutover, once a read was ever shifted, and while `replay --follow` runs."""
        cutover = read_journal(self._state).state
        refuse_lost_journal(self._ledger, ever_began=cutover.ever_began, after="began")
        if is_truncated(self._state, cutover):
            raise NotLegal(
                f"lines of {JOURNAL_FILE} are missing, so nobody knows whether a read was ever shifted to Spectron",
                hint="restore the file; without it, migrate to another context instead",
            )
        if cutover.ever_shifted is not None:
            hint = (
                "cutover abort sends reads to Mem0, and then nothing reads these scopes; to start over, migrate to"
                " another context with its own --state"
            )
            if cutover.phase == "complete":
                hint = "applications use them; Spectron's POST /scopes/forget erases a whole scope, whoever wrote there"
            raise NotLegal(
                f"reads were shifted to Spectron at {cutover.ever_shifted}: applications have used these scopes, and"
                " not everything in them may be from this migration",
                hint=hint,
            )
        if cutover.is_under_way:
            raise NotLegal(
                "a cutover is under way: replay --follow would write again what is erased",
                hint="spectron-migrate cutover abort --yes, then erase: no read was shifted to Spectron yet",
            )
        if is_followed(self._state):
            raise NotLegal(
                "replay --follow is running: it would write again what is erased", hint="stop it, then erase"
            )

    async def _list_nodes(self) -> list[str]:
        """Every node except markers. Tombstoned nodes are included, because they still hold what was written there."""
        return [node.path for node in await self._api.scopes() if not is_marker(node.path)]

    def _problems(self, path: str, wanted: Sequence[str], listed: Sequence[str]) -> list[str]:
        return self._problems_of_nodes(path, listed) + self._problems_of_facts(path, wanted)

    def _problems_of_nodes(self, path: str, listed: Sequence[str]) -> list[str]:
        problems = []
        if not erasing.is_ours(self._ledger, path):
            problems.append(f"scope {path} was not registered by this migration")
        problems += [
            f"scope {node} below {path} was made by somebody else"
            for node in listed
            if _is_below(node, path) and not erasing.was_intended(self._ledger, node)
        ]
        return problems

    def _problems_of_facts(self, path: str, wanted: Sequence[str]) -> list[str]:
        problems = []
        for selector, undecided in erasing.selectors_in(self._ledger, path):
            others = sorted(
                {one for clause in selector for one in clause if not any(_is_in(one, each) for each in wanted)}
            )
            if others:
                problems.append(f"memories in {path} are also in scope {', '.join(others)}, which stays")
            if undecided:
                problems.append(f"{path} holds {counted(undecided, 'memory')} not decided yet")
        return problems

    async def _examine_sessions(self, path: str) -> _Examined:
        """Compare our sessions there with our turns: they must hold these turns and nothing else."""
        examined = _Examined()
        begun = self._is_begun(path)
        for session in erasing.sessions_in(self._ledger, path):
            try:
                listed = {turn.id for turn in await self._api.turns(session.server_id)}
            except UnknownSession:
                listed = set()
            if session.claimed - listed and not begun:
                examined.problems.append(
                    f"session {session.server_id} in {path} lacks {counted(len(session.claimed - listed), 'turn')}"
                    " that were confirmed: is this the right server?"
                )
            others = len(listed - session.claimed - session.residue)
            if others:
                foreign = counted(others, "turn")
                examined.problems.append(f"session {session.server_id} in {path} holds {foreign} of others")
            examined.turns += len(listed)
        if not examined.problems:
            examined.problems += await self._foreign_passages(path)
        return examined

    async def _foreign_passages(self, path: str) -> list[str]:
        """Query the scope once: a passage that is part of none of our texts was written by somebody else."""
        lens = ((path,), (f"{path}/*",))
        found = await self._api.query(
            path.rsplit("/", 1)[-1], lens=lens, k=PASSAGES, include=("passages",), include_duplicates=True
        )
        if len(found.hits) >= PASSAGES and not self._is_begun(path):
            return [f"{path} holds {PASSAGES} passages or more, and a query cannot show that all are of this migration"]
        passages = [hit for hit in found.hits if hit.source == "memory_chunk"]
        foreign = [hit for hit in passages if not erasing.wrote(self._ledger, path, hit.id, hit.text)]
        if not foreign:
            return []
        return [f"{counted(len(foreign), 'passage')} in {path} came from somebody else"]

    def _is_begun(self, path: str) -> bool:
        return path in unfinished(self._ledger)

    def _erasable(self, path: str, listed: Sequence[str], turns: int) -> Erasable:
        return Erasable(
            path=path,
            nodes=tuple(sorted(node for node in listed if _is_below(node, path))),
            memories=erasing.count_in(self._ledger, path),
            sessions=tuple(one.server_id for one in erasing.sessions_in(self._ledger, path)),
            turns=turns,
            begun=self._is_begun(path),
        )

    async def _check_erased(self, scope: Erasable) -> None:
        """Raises Unreachable if our sessions still list turns after the server reported the scope as erased."""
        for session in scope.sessions:
            try:
                left = await self._api.turns(session)
            except UnknownSession:
                continue
            if left:
                raise Unreachable(
                    f"Spectron reports scope {scope.path} as erased, but still lists"
                    f" {counted(len(left), 'turn')} of {session}",
                    hint="run erase again; this migration writes nothing until it has finished",
                )


def _require_grants(me: Me, paths: Sequence[str]) -> None:
    """Raises KeyRefused. A grant for the node alone is not enough, because the call erases everything below it too."""
    hint = f"grant it on {paths[0]}/*"
    require_grant(me, "memory:forget", paths, hint=hint, subtree=True)
    require_grant(me, "memory:read", paths, hint=hint)


def _not_exact_error(problems: Sequence[str]) -> MigrateError:
    shown = list(dict.fromkeys(problems))
    named = name_first(shown, separator="; ")
    return NotLegal(
        f"nothing was erased, because it would not be exact: {named}",
        hint="spectron-migrate status lists undecided memories; scopes that share memories must be named together",
    )


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths without those below another one; raises InputError for the root."""
    wanted = list(dict.fromkeys(paths))
    if not wanted or "" in wanted:
        raise InputError("--scope names no scope", hint="name each as the mapping does: user/alice")
    return [path for path in wanted if not any(_is_below(path, other) for other in wanted)]


def _is_in(path: str, scope: str) -> bool:
    return path == scope or _is_below(path, scope)


def _is_below(path: str, scope: str) -> bool:
    return path.startswith(scope + "/")
