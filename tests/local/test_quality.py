"""The memories and questions of the rehearsal, compared with a ranking as Mem0 does it."""

from __future__ import annotations

from spectron_migrate.rehearsal.store import SampleQuestion, load_events, load_questions
from tests.local.support import Spectron, embedder, spectron


def memories() -> dict[str, tuple[str, str, str, str]]:
    """Key -> final text with its time, user and agent; oldest first."""
    found: dict[str, tuple[str, str, str, str]] = {}
    for event in load_events():
        if event.kind == "delete":
            del found[event.key]
        elif event.kind == "add":
            found[event.key] = (event.text, event.at.isoformat(), event.user or "", event.agent or "")
        elif event.text:
            found[event.key] = (event.text, event.at.isoformat(), *found[event.key][2:])
    return dict(sorted(found.items(), key=lambda entry: entry[1][1]))


def scope(user: str, agent: str) -> str:
    """The scope of a pair of ids."""
    return f"user/u{user.encode().hex()}" + (f"/agent/a{agent.encode().hex()}" if agent else "")


def first_here(local: Spectron, question: SampleQuestion, keys: dict[str, str]) -> str | None:
    """Key of the memory that is the best hit."""
    node = scope(question.user, question.agent or "")
    lens = [[node]] if question.agent else [[node], [node + "/*"]]
    known = [keys[hit["id"]] for hit in local.recall(question.text, lens=lens, k=5) if hit["id"] in keys]
    return known[0] if known else None


def test_the_right_memory_is_first_as_often_as_with_mem0s_ranking() -> None:
    rows, questions = memories(), load_questions()
    vectors = dict(zip(rows, embedder().embed([text for text, *_ in rows.values()]), strict=True))
    with spectron() as local:
        keys: dict[str, str] = {}
        for key, (text, at, user, agent) in rows.items():
            local.register(scope(user, agent))
            made = local.remember(text, scope(user, agent), observed_at=at, memory_category="knowledge")
            keys |= {fact["id"]: key for fact in made["extraction"]["attributes"]}
            keys[made["chunkId"]] = key
        here = [first_here(local, question, keys) in question.expect for question in questions]
    there = []
    for question in questions:
        (asked,) = embedder().embed([question.text])
        mine = [key for key, row in rows.items() if row[2] == question.user and question.agent in (None, row[3])]
        there.append(max(mine, key=lambda key: float(vectors[key] @ asked)) in question.expect)

    assert sum(here) >= sum(there)
