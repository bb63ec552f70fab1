"""`hf-memoria eval`: EleutherAI's evaluation harness, over models with memory."""

from __future__ import annotations

import argparse
import sys

from hf_memoria.cli.command import Command

EXAMPLES = """\
  hf-memoria eval --model_args pretrained=gpt2-memory --tasks wikitext
  hf-memoria eval --model_args '{"pretrained": "gpt2-small", "memory": {"kind": "episodic"}}' --tasks lambada"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: every word is the harness's."""


def run(args: argparse.Namespace) -> int:
    """Run the harness with its model `hf-memoria`; its own `--help` lists its words."""
    from lm_eval.__main__ import cli_evaluate

    from hf_memoria.clients import lm_eval as client

    before = sys.argv
    sys.argv = ["lm_eval", "run", "--model", client.NAME, *args.more]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0


COMMAND = Command("eval", "measure a model by the evaluation harness", EXAMPLES, add_arguments, run, takes_more=True)
