"""The README and the pages of the site, as text: what they link to, show to run, and list."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "pages"
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "hf_memoria").glob("*.md")), *sorted(DOCS.rglob("*.md")))
"""All that the site is written in; the changelog and what is generated are left out."""


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def code_blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)


def block_with(words, language="python"):
    """The one block of code on all pages that holds these words."""
    found = [block for page in PAGES for block in code_blocks(language, page) if words in block]
    assert len(found) == 1, f"{len(found)} blocks hold {words!r}"
    return found[0]


def dead_links(page):
    """Targets of links and pictures that are no file or folder of the repository."""
    outside_code = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"`[^`\n]+`", "", outside_code))
    return [target for target in targets if not (page.parent / target).exists()]
