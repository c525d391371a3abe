"""JSON that is not Mem0's: its fields tell what it is, and the message says what to give instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.files import FilesReader
from spectron_migrate.mem0.normalise import MESSAGE
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import NOW

ROW = {"id": "m1", "memory": "likes green tea", "user_id": "alice"}
PAYLOAD = {"data": "likes green tea", "user_id": "alice"}
TURN = {"role": "user", "content": "I like green tea"}

SHAPES: list[tuple[Any, str, str]] = [
    ({"vector_store": {"provider": "qdrant", "config": {}}, "llm": {}}, "a configuration of Mem0", "--mem0-config"),
    (
        {"message": "The export will be ready in 60 seconds", "id": "e1"},
        "Mem0's answer to a request",
        "once it is ready",
    ),
    ([{"message": "queued", "status": "PENDING", "event_id": "e1"}], "Mem0's answer to a request", "mem0 list -o json"),
    ([{"id": "u1", "name": "alice", "type": "user", "total_memories": 3}], "a list of owners", "of each owner"),
    (
        [{"type": "entity", "name": "Alice", "entityType": "person", "observations": ["likes green tea"]}],
        "the knowledge graph of the MCP server",
        "no ids",
    ),
    ([{"source": "alice", "relationship": "likes", "destination": "tea"}], "graph relations", "not moved"),
    (
        [{"namespace": ["memories", "alice"], "key": "m1", "value": {"text": "likes green tea"}}],
        "items of LangGraph's store",
        "id: .key",
    ),
    (
        [{"id": 1, "key": "data", "string_value": "likes green tea"}],
        "a table of Chroma's own database",
        "--mem0-config",
    ),
    ([{"db": 0, "key": "mem0:mem0:m1", "type": "hash", "value": {"memory_id": "m1"}}], "keys of Redis", "jq .value"),
    ({"mem0:mem0:m1": {"type": "hash", "value": {"memory_id": "m1"}}}, "keys of Redis", "--mem0-config"),
    ([{"key": "m1", "value": {"memory": "likes green tea"}}], "entries of an object", "jq from_entries"),
    ({"agents": [{"id": "a"}], "blocks": [{"label": "human", "value": "x"}]}, "an agent of Letta", "not Mem0's"),
    ({"agent_type": "memgpt_agent", "core_memory": []}, "an agent of Letta", "`id` and a `memory`"),
    ({"facts": [{"uuid": "f1", "fact": "Alice likes tea"}]}, "facts of Zep or Graphiti", "id: .uuid"),
    ([{"uuid": "e1", "fact": "likes tea", "source_node_uuid": "a"}], "facts of Zep or Graphiti", "memory: .fact"),
    ([TURN, {"role": "assistant", "content": "Noted."}], "messages of a conversation", "not the memories"),
    (
        [{**TURN, "id": "c1"}, {"id": "c2", "role": "assistant", "content": "Noted."}],
        "messages of a conv",
        "export the",
    ),
    (
        {"ChatMessage": [{"id": "c1", "role": "userMessage", "content": "I like tea"}]},
        "messages of a conv",
        "export the",
    ),
    (
        {"messages": [{"uuid": "1", "role": "alice", "role_type": "user", "content": "tea"}]},
        "messages of a conv",
        "export",
    ),
    ([{"lc": 1, "type": "constructor", "id": ["langchain"], "kwargs": {}}], "documents as LangChain", "map(.kwargs)"),
    ([{"page_content": "likes tea", "metadata": {"id": "m1"}}], "documents of LangChain", "id: .metadata.id"),
    ({"docstore/data": {"m1": {"__data__": {}}}}, "a document store of LlamaIndex", "id: .id_"),
    ([{"id_": "m1", "text": "likes tea"}], "nodes of LlamaIndex", "id: .id_"),
    ([{"_airbyte_ab_id": "x", "_airbyte_data": ROW}], "records of Airbyte", "._airbyte_data"),
    ([{"type": "RECORD", "stream": "mem0", "record": {}}], "messages of a Singer tap", ".record"),
    ([{"before": None, "after": {}, "op": "c"}], "changes of a table", "--mem0-config"),
    ({"log": {"entries": []}}, "a recording of a browser", "body of the response"),
    ({"columns": ["id", "memory"], "data": [["m1", "likes tea"]]}, "columns and values apart", 'orient="records"'),
    ({"schema": [], "datarows": [["m1"]]}, "columns and values apart", 'orient="records"'),
    ({"id": ["m1"], "memory": ["likes tea"]}, "columns and values apart", 'orient="records"'),
    ({"id": {"0": "m1"}, "memory": {"0": "likes tea"}}, "columns and values apart", 'orient="records"'),
    ({"data": [{"type": "memory", "id": "m1", "attributes": {}}]}, "resources of JSON:API", ".attributes"),
    ({"Items": [{"id": {"S": "m1"}, "memory": {"S": "likes tea"}}]}, "values that carry their types", "plain values"),
    (
        {"documents": [{"name": "a/m1", "fields": {"memory": {"stringValue": "likes tea"}}}]},
        "values that carry their types",
        "plain values",
    ),
    ([{"id": {"uuid": "m1"}, "payload": {"data": {"stringValue": "x"}}}], "values that carry their types", "REST"),
    ([{"id": {"uuid": "m1"}, "payload": PAYLOAD}], "points of Qdrant's gRPC", ".uuid // .num"),
    ({"vectors": [{"id": "m1"}, {"id": "m2"}]}, "ids without what belongs to them", "with_payload"),
    ({"result": {"points": [{"id": "m1", "payload": None}]}}, "ids without what belongs to them", "with_payload"),
    ([{"ID": "m1", "PAYLOAD": json.dumps(PAYLOAD)}], "fields in capital letters", "as Mem0 does"),
    ([{"Id": "m1", "Memory": "likes tea", "UserId": "alice"}], "fields in capital letters", "as Mem0 does"),
    ([{"json_object('id', id)": json.dumps(ROW)}], "rows as JSON text in a column", "fromjson"),
    ({"m1": "likes green tea", "m2": "has a cat"}, "texts by names", "to_entries"),
    ([json.dumps(ROW)], "not an object", "fromjson"),
    ([["id", "memory"], ["m1", "likes tea"]], "not an object", "an object for each row"),
]


@pytest.mark.parametrize(("value", "kind", "hint"), SHAPES, ids=[f"{at} {one[1]}" for at, one in enumerate(SHAPES)])
def test_json_of_another_tool_is_named_with_what_to_give_instead(
    tmp_path: Path, value: Any, kind: str, hint: str
) -> None:
    path = tmp_path / "memories.json"
    path.write_text(json.dumps(value))

    with FilesReader([path], now=NOW) as reader, pytest.raises(InputError) as refused:
        list(reader.rows())

    assert kind in refused.value.message
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize("value", [value for value, _, _ in SHAPES], ids=[str(at) for at in range(len(SHAPES))])
def test_beside_memories_it_is_no_memory_and_words_in_it_are_left_out_by_name(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "memories.json"
    path.write_text(f"{json.dumps(ROW)}\n{json.dumps(value)}\n")

    with FilesReader([path], now=NOW) as reader:
        rows = list(reader.rows())
        is_complete = not reader.missing() and not reader.unproven

    assert ["m1"] == [row.id for row in rows if isinstance(row, Memory)]
    assert not is_complete


def test_a_message_among_memories_is_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW, {**TURN, "id": "c1"}]))

    with FilesReader([tmp_path / "a.json"], now=NOW) as reader:
        _, message = reader.rows()

    assert Skipped("c1", MESSAGE, has_content=True) == message


@pytest.mark.parametrize(
    "row",
    [
        {"id": "m1", "content": "likes green tea", "state": "active"},
        {"id": "m1", "memory": "likes green tea", "role": "user"},
        {"id": "m1", "payload": {**PAYLOAD, "role": "user"}},
        {"id": "m1", "content": "likes green tea", "role": "barista"},
    ],
)
def test_a_memory_with_a_role_or_a_content_is_no_message(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps([row]))

    with FilesReader([tmp_path / "a.json"], now=NOW) as reader:
        [found] = reader.rows()

    assert isinstance(found, Memory)
    assert "likes green tea" == found.memory
