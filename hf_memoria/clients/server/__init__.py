"""Models with memory behind OpenAI's interface: a server with a memory for each user."""

from hf_memoria.clients.server.app import Limits, create_app
from hf_memoria.clients.server.memories import Memories, digest_of
from hf_memoria.clients.server.running import LOCAL_NAMES, is_local, server_for
from hf_memoria.clients.server.turns import Turns

__all__ = ["LOCAL_NAMES", "Limits", "Memories", "Turns", "create_app", "digest_of", "is_local", "server_for"]
