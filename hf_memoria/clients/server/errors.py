"""Errors as clients of OpenAI's interface know them: a status, and JSON with message, type, param and code."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

logger = logging.getLogger("uvicorn.error")
"""The server's own log, so that errors stand between the lines of the requests that they belong to."""

TYPES = {400: "invalid_request_error", 401: "authentication_error", 500: "server_error"}
"""By status; others from 400 on are `invalid_request_error`."""


class RequestError(Exception):
    """What a client is told.

    Args:
        message: the text: what is wrong, what was expected and what to do.
        param: the field of the request.
        code: a word for programs.
        status: the HTTP status.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status

    def told(self) -> dict[str, Any]:
        """Return it in OpenAI's form, as plain JSON."""
        kind = TYPES.get(self.status, TYPES[400])
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def as_request_error(error: BaseException) -> RequestError:
    """Return what a client is told of any error; of those that are no fault of its own, nothing but that."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return RequestError(_of_http(error), status=error.status_code)
    logger.error("a request failed", exc_info=error)
    told = "the server could not answer this request, and kept nothing of it; its log says why."
    return RequestError(told, code="internal_error", status=500)


def _of_http(error: HTTPException) -> str:
    told = {
        404: "there must be something at this address; there is nothing. /openapi.json lists all addresses.",
        405: "the method must be one of this address; /openapi.json lists all addresses.",
    }
    return told.get(error.status_code, str(error.detail))


def _of_validation(error: RequestValidationError) -> RequestError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body must be JSON; it is not: {first.get('ctx', {}).get('error', first['msg'])}.")
    if first["loc"] == ("body",):
        told = "the body must be a JSON object, and come with the header Content-Type: application/json"
        return RequestError(f"{told}: {first['msg']}.")
    # What follows "body" leads to the field; names of alternatives of a type are no part of it.
    place = [str(part) for part in first["loc"][1:] if isinstance(part, int) or str(part).islower()]
    param = ".".join(place) or None
    return RequestError(f"{param or 'the body'} must be valid: {first['msg']}.", param)


def add_error_handlers(app: FastAPI) -> None:
    """Make an app answer every error in this form."""

    async def tell(request: Request, error: Exception) -> JSONResponse:
        told = as_request_error(error)
        return JSONResponse(told.told(), told.status, getattr(error, "headers", None))

    for kind in (RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, tell)
