"""`hf-memoria generate`: text from a checkpoint, with a memory that can be brought along and kept."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, TextStreamer, set_seed

from hf_memoria.cli.command import Command, finding, tokenizer_of
from hf_memoria.cli.text import REMEDY, decode_text
from hf_memoria.memories.interface import system_of
from hf_memoria.models import MemoriaMixin, load_memory, save_memory

EXAMPLES = """\
  hf-memoria generate out/model --prompt "Once upon a time"
  hf-memoria generate out/model --prompt-file book.txt --max-new-tokens 2000 --sample --seed 0
  cat book.txt | hf-memoria generate out/model --save-memory book.safetensors --max-new-tokens 1
  hf-memoria generate out/model --memory book.safetensors --prompt "Who was the captain?" """


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint's folder, or its name on the Hub")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="text to go on from; else standard input")
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="a file that holds it")
    parser.add_argument("--encoding", metavar="NAME", help="of the file or the input (UTF-8, or as its mark says)")
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="tokens at most (100)")
    parser.add_argument("--memory", type=Path, metavar="FILE", help="start from what this memory file holds")
    parser.add_argument("--save-memory", type=Path, metavar="FILE", help="keep what is remembered in the end")
    parser.add_argument("--sample", action="store_true", help="sample instead of taking the likeliest token")
    parser.add_argument("--temperature", type=float, metavar="T", help="of sampling")
    parser.add_argument("--top-p", type=float, metavar="P", help="of sampling")
    parser.add_argument("--seed", type=int, metavar="N", help="of sampling")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps, ... (cpu)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the checkpoint brings")


def run(args: argparse.Namespace) -> int:
    """Print the continuation as it is made."""
    _check(args)
    prompt = _prompt(args)
    trust = {"trust_remote_code": args.trust_remote_code}
    with finding("MODEL", args.model):
        model = AutoModelForCausalLM.from_pretrained(args.model, **trust).to(args.device).eval()
    tokenizer = tokenizer_of("MODEL", args.model, **trust)
    if (args.memory or args.save_memory) and not isinstance(model, MemoriaMixin):
        raise TypeError(f"MODEL must be a model of hf_memoria to remember; got {type(model).__name__}.")
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    if not inputs["input_ids"].shape[1]:
        raise ValueError("the prompt must hold at least one token; got none.")
    if args.seed is not None:
        set_seed(args.seed)
    output = model.generate(**inputs, **_settings(args, model), streamer=TextStreamer(tokenizer, skip_prompt=True))
    if args.save_memory:
        save_memory(output.memory, args.save_memory, model)
        holds = system_of(model.config.memory).holds
        print(f"what is remembered is in {args.save_memory}, which holds {holds}: {output.memory}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("temperature", "top_p"):
        if getattr(args, name) is not None and not args.sample:
            raise ValueError(f"--{name.replace('_', '-')} must come with --sample; the likeliest token needs neither.")
    if args.encoding is not None and args.prompt is not None:
        raise ValueError(
            "--encoding must come with --prompt-file or standard input; words of a command line have none."
        )


def _prompt(args: argparse.Namespace) -> str:
    if args.prompt is not None:
        return _checked_word(args.prompt)
    if args.prompt_file is not None:
        content, name = args.prompt_file.read_bytes(), str(args.prompt_file)
    elif sys.stdin.isatty():
        raise ValueError("a prompt must be given: --prompt TEXT, --prompt-file FILE, or on standard input.")
    else:
        content, name = sys.stdin.buffer.read(), "standard input"
    return decode_text(content, name, args.encoding, f"{REMEDY}, or name its encoding, as --encoding latin-1")


def _checked_word(prompt: str) -> str:
    """Return text that stood on the command line; bytes that were no text there have become lone surrogates."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        remedy = "Put it into a file, for --prompt-file and --encoding"
        return decode_text(os.fsencode(prompt), "--prompt", remedy=remedy)
    return prompt


def _settings(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.sample}
    settings |= {
        name: getattr(args, name) for name in ("temperature", "top_p") if getattr(args, name, None) is not None
    }
    if args.memory:
        settings["memory"] = load_memory(args.memory, model)
    if args.save_memory:
        settings["return_dict_in_generate"] = True
    return settings


COMMAND = Command("generate", "go on from a prompt, with memory", EXAMPLES, add_arguments, run)
