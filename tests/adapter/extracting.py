"""A real Mem0 whose language model is a rule: each sentence of a message is a memory."""

from __future__ import annotations

from typing import Any


class Extracting:
    """Stores what it makes of a message by Mem0's own calls; everything else is Mem0's."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def add(self, messages: Any, *, infer: bool = True, **ids: Any) -> Any:
        if not infer:
            return self._memory.add(messages, infer=False, **ids)
        each = [messages] if isinstance(messages, str) else [message["content"] for message in messages]
        sentences = [sentence.strip() for text in each for sentence in text.split(".") if sentence.strip()]
        made = [self._memory.add(sentence, infer=False, **ids)["results"][0] for sentence in sentences]
        return {"results": made}

    def search(self, query: str, *, top_k: int = 20, filters: Any = None, **kwargs: Any) -> Any:
        return self._memory.search(query, top_k=top_k, filters=filters, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)
