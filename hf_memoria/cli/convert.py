"""`hf-memoria convert`: a plain checkpoint, or one of memoria-pytorch's, to one with memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_memoria.cli.command import Command, finding, settings_of_words
from hf_memoria.memoria_pytorch.convert import convert_reference_checkpoint
from hf_memoria.memoria_pytorch.rules import REFERENCE_MODELS
from hf_memoria.memories.interface import SYSTEMS
from hf_memoria.memories.kinds import DEFAULT_KIND
from hf_memoria.models import wrap
from hf_memoria.models.families import MEMORIA_CLASSES

EXAMPLES = """\
  hf-memoria convert openai-community/gpt2 gpt2-memory --memory segment_length=150
  hf-memoria convert openai-community/gpt2 gpt2-tokens --memory kind=token num_tokens=16
  hf-memoria convert google/vit-base-patch16-224 vit-lwpf --attention kind=lwpf forgetting=relu
  hf-memoria convert folder/ out/ --gguf-file model.Q4_1.gguf --memory kind=episodic share_attention=true
  hf-memoria convert memoria-pytorch-checkpoint/ out/   # found out by its config.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint's folder, or its name on the Hub")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the new checkpoint goes; it must be empty")
    parser.add_argument("--gguf-file", metavar="NAME", help="the file in SOURCE, if the checkpoint is a GGUF")
    for name, what in (
        ("memory", f"a memory, of kind={DEFAULT_KIND} unless they say kind=another ({', '.join(sorted(SYSTEMS))})"),
        ("attention", "an LwpfAttentionConfig (kind=lwpf) or an SdmAttentionConfig (kind=sdm)"),
    ):
        parser.add_argument(f"--{name}", nargs="*", metavar="FIELD=VALUE", help=f"settings of {what}")


def run(args: argparse.Namespace) -> int:
    """Write the new checkpoint, its tokenizer or image processor included."""
    if args.folder.exists() and any(args.folder.iterdir()):
        raise ValueError(f"FOLDER must be empty or not there; {args.folder} holds something.")
    model = _converted(args)
    model.save_pretrained(args.folder)
    given = _gguf(args)
    brought = _bring_along(args.source, args.folder, model.main_input_name == "pixel_values", given)
    print(f"{type(model).__name__}, {model.num_parameters():,} parameters, {' and '.join(brought)} in {args.folder}")
    return 0


def _converted(args: argparse.Namespace) -> PreTrainedModel:
    memory, attention = settings_of_words(args.memory, "--memory"), settings_of_words(args.attention, "--attention")
    with finding("SOURCE", args.source):
        found, _ = PreTrainedConfig.get_config_dict(args.source, **_gguf(args))
        if not found:  # which is what a name without a config gives
            raise FileNotFoundError("it has no config.json.")
    if found.get("model_type") in REFERENCE_MODELS:
        if memory is not None or attention is not None:
            raise ValueError("--memory and --attention must be left out for memoria-pytorch's; its config has them.")
        return convert_reference_checkpoint(args.source)
    if memory is None and attention is None:
        raise ValueError("--memory or --attention must be given; --memory alone takes the defaults.")
    # A GGUF file names no class: what it holds is a language model.
    loader = AutoModelForCausalLM if args.gguf_file else _stock_class(AutoConfig.from_pretrained(args.source))
    model = loader.from_pretrained(args.source, **_gguf(args))
    settings = {"memory": None if memory is None else {"kind": DEFAULT_KIND, **memory}, "attention": attention}
    return wrap(model, **settings)


def _gguf(args: argparse.Namespace) -> dict[str, str]:
    """Return what `from_pretrained` is told of a GGUF file."""
    return {} if args.gguf_file is None else {"gguf_file": args.gguf_file}


def _stock_class(config: PreTrainedConfig) -> Any:
    """Return the class that the checkpoint was saved from, as its config says."""
    known: dict[str, Any] = {cls.__name__: cls for pair in MEMORIA_CLASSES.items() for cls in pair}
    named = (config.architectures or ["nothing"])[0]
    found = known.get(named, getattr(transformers, named, None))
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(
            "architectures in the config of SOURCE must name a model class of Transformers; got "
            f"{config.architectures}."
        )
    return found


def _bring_along(source: str, folder: Path, reads_images: bool, given: dict[str, str]) -> list[str]:
    """Copy what turns text or images into inputs, loaded as the model was; return what there is."""
    brought = ["model"]
    # Only where there may be one: some versions of Transformers want torchvision to look for an image processor.
    kinds: list[tuple[str, Any]] = [("tokenizer", AutoTokenizer)]
    if reads_images:
        kinds.append(("image processor", AutoImageProcessor))
    for name, auto in kinds:
        try:
            auto.from_pretrained(source, **given).save_pretrained(folder)
        except (OSError, ValueError, KeyError):
            continue  # it has none
        brought.append(name)
    return brought


COMMAND = Command("convert", "give a checkpoint a memory", EXAMPLES, add_arguments, run)
