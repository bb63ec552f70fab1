"""Models on the Hub: what is pushed, the card, and code that travels with a checkpoint."""

from hf_memoria.hub.push import push_to_hub
from hf_memoria.hub.remote_code import export_remote_code

__all__ = ["export_remote_code", "push_to_hub"]
