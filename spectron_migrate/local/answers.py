"""Rows as JSON in the published form; responses are camelCase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.fact_updates import ExtractionResult
from spectron_migrate.local.maintenance import FsckReport
from spectron_migrate.local.results import MemoryHit, QueryResult
from spectron_migrate.local.rows import ApiKey, Attribute, Entity, Note, Principal, Relation, Resource, ScopeNode, Turn
from spectron_migrate.local.scopes import Selector

Answer = dict[str, Any]


def scope_node(node: ScopeNode) -> Answer:
    """`ScopeNodeJson`."""
    return {"path": node.path, "createdAt": node.created_at, "tombstonedAt": node.tombstoned_at}


def turn(row: Turn) -> Answer:
    """`TurnResponseJson`."""
    return {
        "id": row.id,
        "session": row.session,
        "role": row.role,
        "content": row.content,
        "seq": row.seq,
        "createdAt": row.created_at,
    }


def hit(row: MemoryHit, resource: Resource | None, *, later: bool) -> Answer:
    """`MemoryHitJson`; all generations but the first add the known time and the row behind the hit."""
    answer = {"id": row.id, "text": row.text, "source": row.source, "score": row.score}
    if later:
        answer["occurredAt"] = row.known_at
        if row.source == "entity":
            type_, _, name = row.text.partition(" ")
            answer["resource"] = {"kind": "entity", "entityType": type_, "name": name}
        elif resource is not None:
            answer["resource"] = _resource(resource)
    return answer


def _resource(row: Resource) -> Answer:
    """`ResourceRef`."""
    if row.key is not None:
        return {"kind": "attribute", "entityType": row.entity_type, "name": row.entity_name, "key": row.key}
    return {"kind": "session", "sessionId": row.session, "turnId": row.turn, "position": row.position}


def trace(id_: str, result: QueryResult, took: int) -> Answer:
    """`QueryTraceJson`."""
    return {
        "traceId": id_,
        "resolutionTier": result.tier,
        "tierReason": result.reason,
        "latencyMs": took,
        "retrievedCount": len(result.hits),
        "topScores": [row.score for row in result.hits[:5]],
    }


def entity(row: Entity) -> Answer:
    """`EntityDetailJson`."""
    return {
        "id": row.id,
        "name": row.name,
        "entityType": row.type,
        "memoryCategory": row.category,
        "importance": row.importance,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
    }


@dataclass(frozen=True, slots=True)
class FactAnswers:
    """Attributes and relations as the generation shows them."""

    entities: Mapping[str, Entity]
    """Id -> entity, of all that the rows name."""
    scopes: Mapping[int, Selector]
    """Selector number -> selector."""
    shows_labels: bool
    """Whether rows show scope, labels, confidence and a sentence (0.3.0)."""

    def attribute(self, row: Attribute) -> Answer:
        """`AttributeDetailJson`."""
        about = self.entities[row.entity]
        answer: Answer = {
            "id": row.id,
            "entity": ref(about) if self.shows_labels else row.entity,
            "key": row.key,
            "value": row.value,
            "memoryCategory": row.category,
            "importance": row.importance,
            "createdAt": row.created_at,
            "validUntil": row.valid_until,
            "supersedes": row.supersedes,
            "supersededBy": row.superseded_by,
            "source": self._source(row),
        }
        return answer | self._labelled(row, f"{about.name} {row.key.replace('_', ' ')}: {row.value}")

    def relation(self, row: Relation) -> Answer:
        """`RelationDetailJson`; subject and object as `entity:<type>/<name>`."""
        subject, object_ = self.entities[row.subject], self.entities[row.object]
        answer: Answer = {
            "id": row.id,
            "subject": ref(subject),
            "object": ref(object_),
            "label": row.label,
            "memoryCategory": row.category,
            "createdAt": row.created_at,
            "validUntil": row.valid_until,
            "source": self._source(row),
        }
        return answer | self._labelled(row, f"{subject.name} {row.label.replace('_', ' ')} {object_.name}")

    def _labelled(self, row: Attribute | Relation, summary: str) -> Answer:
        if not self.shows_labels:
            return {}
        return {
            "scope": self.scopes[row.selector],
            "labels": row.labels,
            "confidence": row.confidence,
            "summary": summary,
        }

    def _source(self, row: Attribute | Relation) -> Answer:
        """`SourceRefJson`."""
        answer: Answer = {"kind": row.origin}
        if row.turn is not None:
            answer |= {"ref": f"turn:{row.turn}", "sessionId": row.session}
        return answer | ({"trust": 1.0 if row.origin == "upsert" else 0.7} if self.shows_labels else {})


def ref(row: Entity) -> str:
    """The navigable reference of an entity."""
    return f"entity:{row.type}/{row.name}"


def instruction(row: Note) -> Answer:
    """`InstructionSummaryJson`."""
    return {"id": row.id, "label": row.subject, "description": row.text}


def uncertainty(row: Note) -> Answer:
    """`UncertaintySummaryJson`."""
    return {"about": row.subject, "reason": row.text}


def uncertainty_detail(row: Note, selector: Selector) -> Answer:
    """`UncertaintyJson`; none is ever settled here, because that call is not served."""
    return {
        "id": row.id,
        "about": row.subject,
        "reason": row.text,
        "entity": f"entity:{row.entity}" if row.entity else None,
        "key": row.key,
        "resolved": False,
        "resolvable": False,
        "scope": selector,
        "labels": row.labels,
        "createdAt": row.created_at,
    }


def extraction(result: ExtractionResult, *, later: bool) -> Answer:
    """`ExtractionResultJson`; all generations but the first list dated events, which the rules do not extract."""
    return ({"actions": []} if later else {}) | {
        "turnId": result.turn,
        "entities": [
            {
                "id": row.id,
                "name": row.name,
                "entityType": row.type,
                "memoryCategory": row.category,
                "isNew": is_new,
            }
            for row, is_new in result.entities.values()
        ],
        "attributes": [
            {
                "id": row.id,
                "entityId": row.entity,
                "key": row.key,
                "value": row.value,
                "memoryCategory": row.category,
            }
            for row in result.attributes
        ],
        "relations": [
            {"subject": subject, "label": label, "object": object_, "memoryCategory": category}
            for subject, label, object_, category in result.relations
        ],
        "instructions": [instruction(row) for row in result.instructions],
        "uncertainties": [uncertainty(row) for row in result.uncertainties],
        "corrections": [
            {"entityId": row.entity, "key": row.key, "oldValue": row.old, "newValue": row.new}
            for row in result.corrections
        ],
    }


def principal(row: Principal) -> Answer:
    """`PrincipalJson`."""
    return {"id": row.id, "kind": row.kind, "displayName": row.display_name, "grants": row.grants}


def key_detail(row: ApiKey, last_used: str | None) -> Answer:
    """`KeyDetailJson`."""
    return {
        "id": row.id,
        "name": row.name,
        "createdAt": row.created_at,
        "grants": row.grants,
        "lastUsedAt": last_used,
        "validUntil": row.valid_until,
    }


def whoami(caller: Caller) -> Answer:
    """`WhoamiJson`."""
    return {
        "principalId": caller.principal.id,
        "kind": caller.principal.kind,
        "displayName": caller.principal.display_name,
        "grants": caller.principal.grants,
        "tokenGrants": caller.key.grants,
        "effectiveGrants": caller.effective,
        "delegatedPrincipalId": caller.on_behalf_of.id if caller.on_behalf_of else None,
    }


def profile(
    facts: Sequence[Attribute], entities: Mapping[str, Entity], instructions: Sequence[Note], *, later: bool
) -> Answer:
    """`ProfileResponseJson`: preferences by key, facts of category identity static, all others dynamic."""
    groups: dict[str, list[Answer]] = {"static": [], "dynamic": [], "preferences": []}
    if later:
        groups["selfFacts"] = []
    for fact in facts:
        entry = {"key": fact.key, "value": fact.value}
        about = entities[fact.entity]
        if later:
            entry |= {"entity": about.name, "entityType": about.type}
        if later and (about.type, about.name) == ("person", "user"):
            groups["selfFacts"].append(entry)
        is_preference = "preference" in fact.key or fact.key.startswith(("favourite", "likes", "dislikes"))
        groups["preferences" if is_preference else "static" if fact.category == "identity" else "dynamic"].append(entry)
    return {**groups, "instructions": [instruction(row) for row in instructions]}


def with_category(row: Entity | Attribute | Relation, answer: Answer) -> tuple[str, Answer]:
    """The category of a row, and its JSON."""
    return row.category, answer


def state(tables: Mapping[str, Sequence[Any]], limit: int | None) -> Answer:
    """`StateResponseJson`: everything live, by category, with at most `limit` rows of each table."""
    cut = {name: rows[:limit] for name, rows in tables.items()}
    answer: Answer = {
        category: {
            table: [row for row_category, row in cut[table] if row_category == category]
            for table in ("entities", "attributes", "relations")
        }
        for category in ("identity", "knowledge", "context")
    }
    answer |= {"instructions": cut["instructions"], "unknowns": cut["unknowns"]}
    if limit is not None:
        for category in ("identity", "knowledge", "context"):
            answer[category]["actions"] = []
        truncated = {name: len(rows) > limit for name, rows in tables.items()}
        answer["truncated"] = {**truncated, "actions": False}
    return answer


def fsck(report: FsckReport) -> Answer:
    """`FsckReportJson`."""
    answer: Answer = {
        "duplicates": [
            {"entityA": first, "entityB": second, "similarity": similarity}
            for first, second, similarity in report.duplicates
        ],
        "contradictions": [
            {"entity": about, "key": key, "values": values} for about, key, values in report.contradictions
        ],
        "injection": [{"rowId": row.id, "kind": row.kind, "snippet": row.snippet} for row in report.injection],
        "unscopedContent": [
            {"table": table, "count": count, "sampleIds": sample} for table, count, sample in report.unscoped
        ],
    }
    return {**answer, "total": sum(len(findings) for findings in answer.values())}
