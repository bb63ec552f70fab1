"""Requests whose bodies are too long, refused while they come and before they are in memory."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException


class BoundedBody:
    """An ASGI middleware that reads no more of a body than it may have.

    Args:
        app: the app behind it.
        most: bytes of a body at most.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        came = 0

        async def bounded() -> Any:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                told = f"the body must have at most {self.most} bytes; it has more."
                raise HTTPException(413, f"{told} --max-body of the server sets it.")
            return message

        await self.app(scope, bounded if scope["type"] == "http" else receive, send)
