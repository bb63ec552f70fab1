"""What a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """One word after `hf-memoria`.

    Attributes:
        name: the word.
        help: one line on what it does.
        examples: command lines, as `--help` shows them.
        add_arguments: gives a parser the command's arguments.
        run: does it, and returns the exit status.
        takes_more: whether words that the parser does not know are its own too, in `arguments.more`.
    """

    name: str
    help: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    takes_more: bool = False


@contextmanager
def finding(word: str, name: str) -> Iterator[None]:
    """While a checkpoint is read: if there is none in the folder, or no folder, say so before what else is said.

    Raises:
        FileNotFoundError: if there is neither such a folder nor such a repository within reach.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if (Path(name) / "config.json").is_file():
            raise
        nothing = f"no config.json in the folder {name}"
        if not Path(name).is_dir():
            nothing = f"no folder {name}, and from the Hub it was not to be had"
        told = f"{word} must be a checkpoint's folder or its name on the Hub; there is {nothing}: {error}"
        raise FileNotFoundError(told) from error


def tokenizer_of(word: str, name: str, **given: Any) -> Any:
    """Return the tokenizer of a checkpoint.

    Args:
        word: the argument that names the checkpoint, for the message.
        name: its folder, or its name on the Hub.
        given: arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        FileNotFoundError: if the folder has none.
    """
    # Local: only commands that need it pay for it.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **given)
    except (OSError, ValueError) as error:
        if not Path(name).is_dir() or any(Path(name).glob("tokenizer*")):
            raise
        told = f"{word} must hold a tokenizer; the folder {name} has none: tokenizer.save_pretrained({name!r})."
        raise FileNotFoundError(told) from error


def settings_of_words(words: list[str] | None, option: str) -> dict[str, object] | None:
    """Read `field=value` words; a value is JSON, or else text. None stays None.

    Raises:
        ValueError: if a word is not of this form.
    """
    # Local: only commands that need it pay for it.
    import json

    if words is None:
        return None
    settings: dict[str, object] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or not field:
            raise ValueError(f"{option} must be followed by field=value words; got {word!r}.")
        try:
            settings[field] = json.loads(value)
        except json.JSONDecodeError:
            settings[field] = value
    return settings
