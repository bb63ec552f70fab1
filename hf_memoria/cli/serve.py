"""`hf-memoria serve`: a model behind OpenAI's interface, with a memory for each user."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hf_memoria.cli.command import Command
from hf_memoria.cli.loading import DTYPES, load_to_talk_with

EXAMPLES = """\
  hf-memoria serve out/model
  hf-memoria serve HuggingFaceTB/SmolLM2-135M-Instruct --memory kind=episodic share_attention=true
  hf-memoria serve out/model --memories people --resident 100 --workers 4 --port 8080
  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "out/model", "user": "ada", "messages": [{"role": "user", "content": "I live in Pisa."}]}'"""

KEY = "HF_MEMORIA_API_KEY"
"""Environment variable of the key that clients have to bring; words of a command line are seen by everybody."""

MEGABYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's folder, or its name on the Hub")
    told = "settings of a memory for a checkpoint without one, as for `hf-memoria convert`"
    parser.add_argument("--memory", nargs="*", metavar="FIELD=VALUE", help=told)
    parser.add_argument("--gguf-file", metavar="NAME", help="the file in MODEL, if the checkpoint is a GGUF")
    parser.add_argument("--name", help="of the model for clients (MODEL)")
    told = "where memories are kept, a file for each user (memories)"
    parser.add_argument("--memories", type=Path, default=Path("memories"), metavar="FOLDER", help=told)
    told = "memories that stay on the device at most, those used last (64)"
    parser.add_argument("--resident", type=int, default=64, metavar="N", help=told)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="users that are answered at a time (2)")
    told = "tokens of an answer at most, and where a request asks for no number (1024)"
    parser.add_argument("--max-tokens", type=int, default=1024, metavar="N", help=told)
    parser.add_argument("--max-body", type=float, default=16, metavar="MB", help="megabytes of a request at most (16)")
    told = f"address to listen on (127.0.0.1). Others can read memories there, unless {KEY} is set to a key"
    parser.add_argument("--host", default="127.0.0.1", help=told)
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000); 0 takes a free one")
    told = "seconds that requests under way have when the server is stopped (30)"
    parser.add_argument("--grace", type=int, default=30, metavar="SECONDS", help=told)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps, ... (cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (auto, as they were saved)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the checkpoint brings")


def run(args: argparse.Namespace) -> int:
    """Serve until it is stopped."""
    # Local: only this command needs it, and an extra brings it.
    from hf_memoria.clients import server

    model, tokenizer = load_to_talk_with(args, args.memory, "--memory", args.dtype)
    memories = server.Memories(args.memories, model, args.resident)
    turns = server.Turns(model, tokenizer, memories, args.workers, args.max_tokens)
    name, local = args.name or args.model, server.is_local(args.host)
    limits = server.Limits(
        body_bytes=int(args.max_body * MEGABYTE),
        api_key=os.environ.get(KEY) or None,
        hosts=(*server.LOCAL_NAMES, args.host) if local else (),
    )
    print(f"model {name!r}, a memory for each user in {args.memories}", file=sys.stderr)
    if not local and limits.api_key is None:
        told = f"note: whoever reaches {args.host} can read all memories. Set {KEY} to a key to keep others out."
        print(told, file=sys.stderr)
    server.server_for(server.create_app(name, turns, limits), args.host, args.port, args.grace).run()
    return 0


COMMAND = Command("serve", "answer by OpenAI's interface, with a memory for each user", EXAMPLES, add_arguments, run)
