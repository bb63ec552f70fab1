"""From words on a command line to a command, and from what goes wrong to one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import hf_memoria
from hf_memoria.cli import chat, convert, doctor, generate, inspect, join, serve, train
from hf_memoria.cli import eval as evaluation
from hf_memoria.cli.command import Command

COMMANDS = (
    train.COMMAND,
    generate.COMMAND,
    chat.COMMAND,
    serve.COMMAND,
    inspect.COMMAND,
    join.COMMAND,
    convert.COMMAND,
    evaluation.COMMAND,
    doctor.COMMAND,
)

FAILED = 1
INTERRUPTED = 130
"""Exit statuses; argparse exits with 2 by itself."""

EXAMPLES = """\
examples:
  hf-memoria convert openai-community/gpt2 gpt2-memory --memory segment_length=150
  hf-memoria generate gpt2-memory --prompt "Once upon a time" --save-memory told.safetensors
  hf-memoria inspect told.safetensors

hf-memoria COMMAND --help shows the words of a command, and more examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status.

    What goes wrong is told in one line on stderr, with `--traceback` after the traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    args, more = parser.parse_known_args(words)
    command: Command = args.command
    if more and not command.takes_more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    try:
        _import(args.modules)
        return command.run(args)
    except KeyboardInterrupt:
        print(f"hf-memoria {command.name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.traceback:
            traceback.print_exc()
        print(_told(command.name, error, args.traceback), file=sys.stderr)
        return FAILED


def _import(modules: Sequence[str]) -> None:
    """Import modules that register what is not of the package, found in the working directory too."""
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        importlib.import_module(module)


def _told(name: str, error: Exception, with_traceback: bool) -> str:
    hint = "" if with_traceback else "\n(--traceback shows where)"
    kind = "" if isinstance(error, (ValueError, TypeError, OSError)) else f"{type(error).__name__}: "
    return f"hf-memoria {name}: error: {kind}{error}{_install_hint(error)}{hint}"


def _install_hint(error: Exception) -> str:
    missing = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
    extra = doctor.extra_with(missing) if missing else None
    return f". To have it: pip install 'hf-memoria[{extra}]'" if extra else ""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        "hf-memoria",
        description="Memory for the models you already have.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hf-memoria {hf_memoria.__version__}")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module first that registers a memory or a family of your own",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.add_arguments(sub)
        sub.set_defaults(command=command)
    return parser
