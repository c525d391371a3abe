"""The memory calls of Mem0's README run unchanged, before, during and after a cutover."""

from __future__ import annotations

import json
from typing import Any

from tests.adapter.support import Stage


class LanguageModel:
    """Stands in for Mem0's: it finds that each thing a user says is worth keeping."""

    def generate_response(self, messages: list[dict[str, str]], **_: Any) -> str:
        said = "I moved to Porto" if "I moved to Porto" in str(messages) else "I like green tea"
        return json.dumps({"memory": [{"id": "0", "text": said}]})


def chat_with_memories(memory: Any, message: str, user_id: str = "default_user") -> list[str]:
    """As in the README, the call of its own language model aside."""
    relevant_memories = memory.search(query=message, filters={"user_id": user_id}, top_k=3)
    memories = [entry["memory"] for entry in relevant_memories["results"]]
    messages = [{"role": "system", "content": f"User Memories: {memories}"}, {"role": "user", "content": message}]
    messages.append({"role": "assistant", "content": "Good to know."})
    memory.add(messages, user_id=user_id)
    return memories


def test_the_readmes_chat_remembers_in_every_phase(stage: Stage) -> None:
    stage.mem0.llm = LanguageModel()
    memory = stage.adapter()
    assert [] == chat_with_memories(memory, "I like green tea", stage.user)
    assert ["I like green tea"] == chat_with_memories(memory, "I like green tea, and I moved to Porto", stage.user)
    stage.to_spectron()
    assert "I moved to Porto" in chat_with_memories(memory, "I moved to Porto", stage.user)
    stage.catch_up()
    stage.step("closing")
    stage.step("complete")
    assert "I moved to Porto" in chat_with_memories(memory, "I moved to Porto", stage.user)
    assert "Good to know." in chat_with_memories(memory, "Good to know", stage.user)
