"""The server's addresses: what is asked where, and what is answered."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hf_memoria.clients.server.body import BoundedBody
from hf_memoria.clients.server.errors import RequestError, add_error_handlers
from hf_memoria.clients.server.memories import about, summary_of
from hf_memoria.clients.server.requests import ChatRequest
from hf_memoria.clients.server.responses import DONE, Response, as_event
from hf_memoria.clients.server.turns import Finished, Turn, Turns


@dataclass(frozen=True)
class Limits:
    """What an app lets through.

    Attributes:
        body_bytes: bytes of a request's body at most.
        api_key: key that every request but `/health` has to bring; None asks for none.
        hosts: names by which clients may call the server; empty for any. Of a server for one machine alone these keep
            away pages of other sites that a browser was made to believe are this one.
    """

    body_bytes: int = 16 * 2**20
    api_key: str | None = None
    hosts: Sequence[str] = ()


def create_app(name: str, turns: Turns, limits: Limits | None = None) -> FastAPI:
    """Return the app that answers by OpenAI's interface.

    Args:
        name: name of the model.
        turns: the turns; closed with their memories when the app ends.
        limits: the limits of what is let through.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await turns.close()
        turns.memories.close()

    # Pages about the interface would be loaded from elsewhere; /openapi.json is there.
    app = FastAPI(title="hf_memoria", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.name, app.state.turns, app.state.key = name, turns, limits.api_key
    app.include_router(ROUTES, dependencies=[Depends(check_key)])
    app.add_api_route("/health", health, methods=["GET"])
    add_error_handlers(app)
    app.add_middleware(BoundedBody, most=limits.body_bytes)
    if limits.hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(limits.hosts), www_redirect=False)
    return app


ROUTES = APIRouter(prefix="/v1")


def check_key(request: Request) -> None:
    """Refuse a request without the server's key.

    Raises:
        RequestError: if it has another, or none.
    """
    key, given = request.app.state.key, request.headers.get("authorization", "")
    if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        told = "the key must be the server's, in the header `Authorization: Bearer KEY`."
        raise RequestError(told, code="invalid_api_key", status=401)


async def health() -> dict[str, str]:
    """Say that the server is there."""
    return {"status": "ok"}


@ROUTES.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_model(request.app.state.name)]}


@ROUTES.get("/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """Describe a model."""
    if name != request.app.state.name:
        told = f"there must be a model of this name; there is only {request.app.state.name!r}."
        raise RequestError(told, "model", "model_not_found", 404)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "hf_memoria"}


@ROUTES.post("/chat/completions")
async def chat(request: Request, asked: ChatRequest) -> Any:
    """Answer the last message."""
    turns: Turns = request.app.state.turns
    asked.check(request.app.state.name, turns.most_tokens)
    turn, response = turns.start(asked), Response(asked.model)
    if asked.stream:
        pieces = aiter(turn)
        # Errors that come before the first piece still have a status of their own.
        first = await _unless_gone(request, turn, anext(pieces))
        return StreamingResponse(_events(turn, first, pieces, response), media_type="text/event-stream")
    items = await _unless_gone(request, turn, _all(turn))
    finished = items.pop()
    return JSONResponse(response.whole("".join(items), finished.reason, finished.usage))


async def _all(turn: Turn) -> list[Any]:
    return [item async for item in turn]


async def _unless_gone(request: Request, turn: Turn, awaited: Any) -> Any:
    """Return what is awaited, and cancel the turn when the client leaves before."""
    gone = asyncio.ensure_future(_gone(request))
    result = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait({gone, result}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            turn.cancel()
        return await result
    finally:
        gone.cancel()
        if not result.done():  # the server is being stopped
            turn.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(turn: Turn, first: Any, pieces: AsyncIterator[Any], response: Response) -> AsyncIterator[str]:
    try:
        yield response.event({"role": "assistant", "content": ""})
        item = first
        while not isinstance(item, Finished):
            yield response.event({"content": item})
            item = await anext(pieces)
        yield response.event({}, item.reason)
        if turn.asked.includes_usage:
            yield response.usage_event(item.usage)
        yield DONE
    except RequestError as error:
        yield as_event(error.told())
    finally:
        turn.cancel()


@ROUTES.get("/memories")
async def memories(request: Request, user: str | None = None, text: bool = False) -> dict[str, Any]:
    """List all memories, or say what one holds."""
    if user is not None:
        return await memory(request, user, text)
    found = await asyncio.to_thread(request.app.state.turns.memories.listed)
    return {"object": "list", "data": found}


@ROUTES.get("/memories/{user:path}")
async def memory(request: Request, user: str, text: bool = False) -> dict[str, Any]:
    """Say what a user's memory holds."""
    turns: Turns = request.app.state.turns

    def look() -> dict[str, Any]:
        state = turns.memory_of(user, turns.memories.look)
        if state is None:
            raise _nothing()
        decode = turns.tokenizer.decode if text else None
        return about(turns.memories.path_of(user)) | summary_of(state, decode)

    found: dict[str, Any] = await turns.alone(user, look)
    return found


@ROUTES.delete("/memories")
async def forget_by_name(request: Request, user: str) -> dict[str, Any]:
    """Delete a user's memory."""
    return await forget(request, user)


@ROUTES.delete("/memories/{user:path}")
async def forget(request: Request, user: str) -> dict[str, Any]:
    """Delete a user's memory."""
    turns: Turns = request.app.state.turns
    if not await turns.alone(user, turns.memories.forget, user):
        raise _nothing()
    return {"id": turns.memories.path_of(user).stem, "object": "memory.deleted", "deleted": True}


def _nothing() -> RequestError:
    return RequestError("there must be a memory of this user; there is none.", "user", "memory_not_found", 404)
