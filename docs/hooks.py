"""Hooks of the site: what lies elsewhere in the repository is shown where it is linked, and API pages are generated.

A link on a page is written as it resolves in the repository, so that it works there too. Here it is rewritten to the
place that the target has on the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"

HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing/first_steps.md",
    "CHANGELOG.md": "changelog.md",
    "hf_memoria/how_it_works.md": "concepts/how_it_works.md",
}
"""Pages that lie outside `docs/pages`, and where the site has them."""

API = (
    "hf_memoria",
    "hf_memoria.long_inputs",
    "hf_memoria.exporting",
    "hf_memoria.memories",
    "hf_memoria.memories.engram.store",
    "hf_memoria.memories.episodic.looks",
    "hf_memoria.memories.episodic.looks_in_text",
    "hf_memoria.attentions",
    "hf_memoria.sdm",
    "hf_memoria.training",
    "hf_memoria.metrics",
    "hf_memoria.analysis",
)
"""Modules with an API page each. A name that several of them offer is described where it comes first."""

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def home(path: Path) -> str:
    """Return the place that a file of the repository has on the site."""
    if path.is_relative_to(PAGES):
        return path.relative_to(PAGES).as_posix()
    place = path.relative_to(ROOT).as_posix()
    return place if path.suffix == ".ipynb" else HOMES.get(place, f"files/{place}")


def linked(page: Path) -> Iterator[Path]:
    """Yield the files that a page links to or shows."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            yield path


def public_names(module: str) -> list[str]:
    """Return what a module offers: its `__all__`, or the public functions and classes that it defines."""
    path = ROOT / module.replace(".", "/")
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in defined if not name.startswith("_")]


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each API page."""
    described: set[str] = set()
    for module in API:
        names = [name for name in public_names(module) if name not in described and name != "__version__"]
        described.update(names)
        parts = [f"# {module}", f"::: {module}\n    options:\n      members: false\n      show_root_heading: false"]
        parts += [f"::: {module}.{name}" for name in names]
        yield f"api/{module}.md", "\n\n".join(parts) + "\n"


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages that lie elsewhere, notebooks, all that pages link to, and the API."""
    pages = [*PAGES.rglob("*.md"), *(ROOT / place for place in HOMES)]
    others = {path for page in pages for path in linked(page)} | set(pages)
    for path in sorted(others):
        if not path.is_relative_to(PAGES) and path.suffix != ".ipynb":
            files.append(File.generated(config, home(path), abs_src_path=str(path)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(home(path), str(ROOT), config.site_dir, config.use_directory_urls))
    for place, text in api_pages():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links to files of the repository links within the site."""
    source = page.file.abs_src_path
    if source is None or not Path(source).is_file():
        return markdown  # generated here

    def on_site(link: re.Match[str]) -> str:
        path = (Path(source).parent / link.group()).resolve()
        if not path.is_file() or not path.is_relative_to(ROOT):
            return link.group()  # left to be reported
        return posixpath.relpath(home(path), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(on_site, markdown)
