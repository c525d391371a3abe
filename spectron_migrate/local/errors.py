"""The one error a request can end with."""

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """An answer in the published error form.

    Args:
        status: the HTTP status.
        message: one sentence for the client's developer; never memory text, never a key.
        retry_after: seconds for a `Retry-After` header, where waiting helps.
        allow: methods for an `Allow` header, where another one was used.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: int | None = None, allow: tuple[str, ...] = ()
    ) -> None:
        """Keep the parts apart: the form of the body depends on the API generation."""
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
    """The request cannot be understood or names what must not be named."""
    return ApiError(400, message)


def unauthorised() -> ApiError:
    """One answer for a missing key, a wrong key and an unknown context, so that contexts cannot be guessed."""
    return ApiError(401, "invalid or missing API key")


def forbidden(message: str) -> ApiError:
    """The caller's grants do not reach there."""
    return ApiError(403, message)


def not_found(message: str) -> ApiError:
    """It does not exist, or the caller may not know that it does."""
    return ApiError(404, message)
