"""Calls that write, forget and check memories."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from spectron_migrate.local import answers, maintenance
from spectron_migrate.local.bodies import Body, Write, read_batch, read_fact
from spectron_migrate.local.calls import serves
from spectron_migrate.local.idempotency import digest
from spectron_migrate.local.remember import WriteResult, remember
from spectron_migrate.local.web import ApiCall, encoded, reply

Read = Callable[[Body], Write]
ToAnswer = Callable[[ApiCall, Write, WriteResult], answers.Answer]


@serves("POST", "/facts")
async def facts(call: ApiCall) -> Response:
    """`/facts`: write one text, or triples."""
    return await _write(call, lambda body: read_fact(body, families=call.has_labels), _fact_answer)


@serves("POST", "/facts/batch")
async def facts_batch(call: ApiCall) -> Response:
    """`/facts/batch`: write a conversation."""
    return await _write(call, read_batch, _batch_answer)


async def _write(call: ApiCall, read: Read, to_answer: ToAnswer) -> Response:
    write = read(call.body())
    body = await remember(
        call.engine,
        call.caller,
        write,
        call.headers.get("idempotency-key", ""),
        digest(call.path, call.raw),
        lambda result: encoded(to_answer(call, write, result)),
    )
    return Response(body, media_type="application/json")


def _fact_answer(call: ApiCall, write: Write, result: WriteResult) -> answers.Answer:
    answer: answers.Answer = {"mode": write.infer, "sessionId": result.session}
    if write.infer == "preview":
        answer["preview"] = True
    elif result.turns:
        answer |= {"turnId": result.turns[0], "chunkId": result.passages[0]}
        if not call.engine.reading.names_turn:
            del answer["turnId"]
    if result.extractions:
        answer["extraction"] = answers.extraction(result.extractions[0], later=call.has_pages)
    return answer


def _batch_answer(call: ApiCall, write: Write, result: WriteResult) -> answers.Answer:
    return {
        "sessionId": result.session,
        "turnIds": result.turns,
        "extractions": [answers.extraction(extraction, later=call.has_pages) for extraction in result.extractions],
    }


@serves("POST", "/forget")
async def forget(call: ApiCall) -> Response:
    """Forget by similarity, in the caller's whole region: the call has no scope."""
    body = call.body()
    query = body.required("query")
    dry_run, purge = body.flag("dryRun"), body.flag("purge")
    return reply({"deleted": maintenance.forget(call.engine, call.caller, query, dry_run=dry_run, purge=purge)})


@serves("POST", "/lifecycle/expire")
async def expire(call: ApiCall) -> Response:
    """Expire facts now; this also happens every hour."""
    return reply({"affected": maintenance.expire(call.engine)})


@serves("POST", "/fsck")
async def fsck(call: ApiCall) -> Response:
    """Check for problems; changes nothing."""
    body = call.body(optional=True)
    report = maintenance.fsck(
        call.engine,
        call.engine.region(call.caller),
        check=body.text("check"),
        threshold=body.number("duplicateThreshold", 0.95),
        most=body.count("maxResults", 100, 2**31 - 1),
    )
    return reply(answers.fsck(report))
