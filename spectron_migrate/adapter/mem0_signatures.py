"""Mem0's methods with the parameters of all its generations, for type checkers and editors; none of them is called.

The adapters pass their arguments on to whichever generation of Mem0 they wrap. `typed_as` gives such a method the
parameters of one of these functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from spectron_migrate.adapter.search_results import SearchResults

P = ParamSpec("P")
R = TypeVar("R")

Messages = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
"""A text, a message (`role`, `content`), or a conversation."""
Results = dict[str, Any]


def typed_as(signature: Callable[P, R]) -> Callable[[Callable[..., Any]], Callable[P, R]]:
    """A decorator: the method has the parameters and the result of `signature`."""

    def decorate(method: Callable[..., Any]) -> Callable[P, R]:
        return cast(Callable[P, R], functools.update_wrapper(method, signature, assigned=(), updated=()))

    return decorate


def awaited_as(signature: Callable[P, R]) -> Callable[[Callable[..., Any]], Callable[P, Coroutine[Any, Any, R]]]:
    """As `typed_as`, for a method that is awaited."""

    def decorate(method: Callable[..., Any]) -> Callable[P, Coroutine[Any, Any, R]]:
        wrapped = functools.update_wrapper(method, signature, assigned=(), updated=())
        return cast(Callable[P, Coroutine[Any, Any, R]], wrapped)

    return decorate


def add(  # type: ignore[empty-body]
    self: Any,
    messages: Messages,
    *options: Any,
    user_id: str | None = None,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    filters: Mapping[str, Any] | None = None,
    infer: bool = True,
    timestamp: Any = None,
    expiration_date: Any = None,
    memory_type: str | None = None,
    prompt: str | None = None,
    llm: Any = None,
    custom_categories: Any = None,
    custom_instructions: str | None = None,
    immutable: bool = False,
    includes: str | None = None,
    excludes: str | None = None,
    async_mode: bool = True,
    enable_graph: bool = False,
    output_format: str | None = None,
    version: str | None = None,
) -> Results: ...


def search(  # type: ignore[empty-body]
    self: Any,
    query: str,
    *options: Any,
    filters: Mapping[str, Any] | None = None,
    top_k: int = 20,
    threshold: float | None = None,
    rerank: bool = False,
    user_id: str | None = None,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
    limit: int = 100,
    **kwargs: Any,
) -> Results: ...


def add_awaited(  # type: ignore[empty-body]
    self: Any,
    messages: Messages,
    user_id: Any = None,
    *,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    filters: Mapping[str, Any] | None = None,
    infer: bool = True,
    timestamp: Any = None,
    expiration_date: Any = None,
    memory_type: str | None = None,
    prompt: str | None = None,
    llm: Any = None,
    custom_categories: Any = None,
    custom_instructions: str | None = None,
    immutable: bool = False,
    includes: str | None = None,
    excludes: str | None = None,
    async_mode: bool = True,
    enable_graph: bool = False,
    output_format: str | None = None,
    version: str | None = None,
) -> Results: ...


def search_awaited(  # type: ignore[empty-body]
    self: Any,
    query: str,
    user_id: Any = None,
    use_spectron: bool = False,
    *,
    filters: Mapping[str, Any] | None = None,
    top_k: int = 20,
    threshold: float | None = None,
    rerank: bool = False,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
    limit: int = 100,
    **kwargs: Any,
) -> SearchResults: ...


def get(self: Any, memory_id: str) -> Any: ...  # a memory as a dict, or None if there is none


def get_all(  # type: ignore[empty-body]
    self: Any,
    *options: Any,
    filters: Mapping[str, Any] | None = None,
    top_k: int = 20,
    user_id: str | None = None,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
    limit: int = 100,
    **kwargs: Any,
) -> Results: ...


def update(  # type: ignore[empty-body]
    self: Any,
    memory_id: str,
    text: Any = None,
    metadata: Mapping[str, Any] | None = None,
    *options: Any,
    data: Any = None,
    timestamp: Any = None,
    expiration_date: Any = None,
) -> Results: ...


def delete(self: Any, memory_id: str, delete_linked: bool = False) -> Results: ...  # type: ignore[empty-body]


def delete_all(  # type: ignore[empty-body]
    self: Any,
    *options: Any,
    filters: Mapping[str, Any] | None = None,
    user_id: str | None = None,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
) -> Results: ...


def history(self: Any, memory_id: str) -> list[dict[str, Any]]: ...  # type: ignore[empty-body]


def reset(self: Any) -> Any: ...


def any_call(self: Any, *args: Any, **kwargs: Any) -> Any: ...  # methods that only hosted clients have
