"""The app under uvicorn."""

from __future__ import annotations

import ipaddress
from typing import Any

import uvicorn

LONGEST_HEAD = 2**18
"""Bytes of a request's head at most: names of users stand in addresses, and may be long."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""By which a client on this machine calls a server on it."""


def server_for(app: Any, host: str, port: int, grace: int | None = None) -> uvicorn.Server:
    """Return a server that is ready to run.

    Args:
        app: the app.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        grace: seconds that requests under way have when the server is stopped; None is as long as they take.
    """
    config = uvicorn.Config(
        app,
        host,
        port,
        http="h11",  # of all that there are the one whose heads can be longer
        ws="none",
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=grace,
    )
    return uvicorn.Server(config)


def is_local(host: str) -> bool:
    """Return whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
