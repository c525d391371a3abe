"""The error with which a request ends."""

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """An answer in the published error form.

    Args:
        status: the HTTP status.
        message: one sentence for the client's developer, without memory text or keys.
        retry_after: seconds for a `Retry-After` header.
        allow: methods for an `Allow` header.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: int | None = None, allow: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.allow = allow

    @property
    def title(self) -> str:
        """The status in words, for the RFC 7807 form."""
        return HTTPStatus(self.status).phrase


def bad_request(message: str) -> ApiError:
    """400: the request is malformed or names something invalid."""
    return ApiError(400, message)


def unauthorised() -> ApiError:
    """401 for a missing key, a wrong key and an unknown context alike, so that contexts cannot be guessed."""
    return ApiError(401, "invalid or missing API key")


def forbidden(message: str) -> ApiError:
    """403: the caller's grants do not allow it."""
    return ApiError(403, message)


def not_found(message: str) -> ApiError:
    """404: it does not exist, or the caller may not see it."""
    return ApiError(404, message)
