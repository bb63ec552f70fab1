"""Docstrings say what a thing is, in plain words."""

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_memoria"

NO_NOUN_BEGINS_WITH = {
    *("of", "in", "on", "at", "by", "for", "from", "with", "without", "to"),
    *("that", "which", "what", "whose", "where", "how", "see", "likewise"),
}
"""Words that begin a fragment, which says something about an argument without saying what it is."""

BANNED = {
    "by lot": "at random",
    "call up": "retrieve",
    "called up": "retrieved",
    "calls up": "retrieves",
    "held against": "compared with",
}
"""Phrases that nobody in the field uses, and what to say."""


WRITTEN = (
    "hf_memoria/**/*.py",
    "hf_memoria/*.md",
    "recipes/**/*.py",
    "docs/pages/**/*.md",
    "notebooks/*.ipynb",
    "*.md",
)
"""What people read: code with its messages and help texts, pages, notebooks."""


def docstrings() -> Iterator[tuple[str, str]]:
    """Every string that stands for itself, as docstrings of modules, classes, functions and attributes do."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = getattr(node.value, "value", None) if isinstance(node, ast.Expr) else None
            if isinstance(value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", cleandoc(value)


def arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Names under `Args:` and `Attributes:` with what is said of them."""
    for section in re.finditer(r"^(?:Args|Attributes):\n((?:(?: .*)?(?:\n|$))+)", docstring, re.MULTILINE):
        for entry in re.split(r"\n(?=    \S)", section[1].rstrip()):
            name, colon, said = entry.partition(":")
            assert colon, f"no colon after the argument in {entry!r}"
            yield name.strip(), " ".join(said.split())


def test_arguments_are_nouns():
    found = [(where, *entry) for where, docstring in docstrings() for entry in arguments(docstring)]
    assert len(found) > 500, "the arguments are not found any more"
    fragments = [
        f"{where}: {name}: {said}"
        for where, name, said in found
        if re.split(r"\W", said.lstrip("`\"'("))[0].lower() in NO_NOUN_BEGINS_WITH
    ]
    assert not fragments, "Say what these are, as in 'config: the config of the model.':\n" + "\n".join(fragments)


def test_terms_of_the_field():
    files = [path for pattern in WRITTEN for path in sorted(ROOT.glob(pattern))]
    assert len(files) > 400, "what people read is not found any more"
    odd = [
        f"{path.relative_to(ROOT)}: {phrase!r}: say {instead!r}"
        for path in files
        for phrase, instead in BANNED.items()
        if re.search(rf"\b{phrase}\b", " ".join(path.read_text(encoding="utf-8").split()), re.IGNORECASE)
    ]
    assert not odd, "\n".join(odd)
