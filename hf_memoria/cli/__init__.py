"""The command line, `hf-memoria`: one file a command."""

from hf_memoria.cli.main import main

__all__ = ["main"]
