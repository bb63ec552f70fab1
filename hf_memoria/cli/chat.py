"""`hf-memoria chat`: a conversation with a model whose memory lasts over turns and over restarts."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_memoria.cli.chat_commands import HELP, do_command
from hf_memoria.cli.chat_session import Session
from hf_memoria.cli.command import Command
from hf_memoria.cli.loading import DTYPES, load_to_talk_with
from hf_memoria.cli.text import decode_text
from hf_memoria.memories.interface import State
from hf_memoria.memories.kinds import DEFAULT_KIND
from hf_memoria.models import load_memory

EXAMPLES = """\
  hf-memoria chat out/model --memory me.safetensors
  hf-memoria chat HuggingFaceTB/SmolLM2-135M-Instruct --memory me.safetensors \\
    --memory-settings kind=episodic share_attention=true separate_read=false
  hf-memoria chat folder/ --gguf-file model.Q4_1.gguf --memory-settings kind=episodic share_attention=true
  echo "What is my name?" | hf-memoria chat out/model --memory me.safetensors"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's folder, or its name on the Hub")
    told = "start from this file if it is there, and keep in it what is remembered, after each turn"
    parser.add_argument("--memory", type=Path, metavar="FILE", help=told)
    told = f"give MODEL this memory, as `hf-memoria convert --memory` does; of kind={DEFAULT_KIND} unless they say"
    parser.add_argument("--memory-settings", nargs="*", metavar="FIELD=VALUE", help=told)
    told = "system prompt, read at the beginning of a memory (else that of the chat template, if it has one)"
    parser.add_argument("--system", metavar="TEXT", help=told)
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer (512)")
    parser.add_argument("--sample", action="store_true", help="sample instead of taking the likeliest token")
    parser.add_argument("--temperature", type=float, metavar="T", help="of sampling")
    parser.add_argument("--top-p", type=float, metavar="P", help="of sampling")
    told = "above 1, tokens that the turn has already are less likely"
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help=told)
    parser.add_argument("--seed", type=int, metavar="N", help="of sampling, anew for each turn")
    parser.add_argument("--gguf-file", metavar="NAME", help="the file in MODEL, if the checkpoint is a GGUF")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps, ... (cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (auto, as they were saved)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the checkpoint brings")


def run(args: argparse.Namespace) -> int:
    """Answer line by line until the input ends."""
    _check(args)
    model, tokenizer = load_to_talk_with(args, args.memory_settings, "--memory-settings", args.dtype)
    memory = _remembered(args.memory, model)
    session = Session(model, tokenizer, args.memory, memory, args.system, args.seed, _settings(args))
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{session.told()}\n{HELP.splitlines()[0]}")
    if memory is not None and args.system is not None:
        told = (
            "note: --system is left out; this memory has begun, and a system prompt is read at the beginning of one."
        )
        print(told, file=sys.stderr)
    for line in _typed() if interactive else _piped():
        try:
            if not _do(session, line):
                break
        except (ValueError, TypeError, OSError) as error:
            if not interactive:
                raise
            print(f"error: {error}", file=sys.stderr)
    return 0


def _do(session: Session, line: str) -> bool:
    """Do what a line says; return whether to go on."""
    if line.startswith("/"):
        return do_command(session, line)
    if line.strip():
        session.turn(line.strip())
    return True


def _typed() -> Iterator[str]:
    """Yield lines of a terminal until Ctrl-D."""
    if find_spec("readline"):
        import readline  # noqa: F401  (input() has lines to go back to, and a paste is one line)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D ends)")


def _piped() -> Iterator[str]:
    """Yield lines of standard input as they come."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield decode_text(line, f"line {number} of standard input").removesuffix("\n")


def _check(args: argparse.Namespace) -> None:
    for name in ("temperature", "top_p"):
        if getattr(args, name) is not None and not args.sample:
            raise ValueError(f"--{name.replace('_', '-')} must come with --sample; the likeliest token needs neither.")
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be at least 1; got {args.max_new_tokens}.")
    if args.memory is not None and args.memory.is_dir():
        raise IsADirectoryError(f"--memory must be a file; {args.memory} is a folder.")
    if args.memory is not None and not args.memory.parent.is_dir():
        raise FileNotFoundError(
            f"--memory must be a file in a folder that is there; there is no {args.memory.parent}."
        )


def _remembered(path: Path | None, model: Any) -> State | None:
    if path is None or not path.exists():
        return None
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        memory = load_memory(path, model)
    for warning in raised:
        print(f"warning: {warning.message}", file=sys.stderr)
    if memory.batch_size != 1:
        raise ValueError(f"--memory must hold one row, that of one conversation; {path} holds {memory.batch_size}.")
    return memory


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.sample}
    names = ("temperature", "top_p", "repetition_penalty")
    return settings | {name: getattr(args, name) for name in names if getattr(args, name) is not None}


COMMAND = Command("chat", "talk with a model that remembers, over restarts too", EXAMPLES, add_arguments, run)
