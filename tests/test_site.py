"""The site has every page in its navigation, and what its pages and the scripts beside it name is there."""

import importlib
import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from pages import DOCS, PAGES, ROOT, code_blocks, name_of, text_of

pytest.importorskip("mkdocs")
sys.path.insert(0, str(ROOT / "docs"))
import hooks

CONFIG = yaml.safe_load(text_of(ROOT / "docs" / "mkdocs.yml"))
RESULTS = sorted(path for path in (DOCS / "results").glob("*.md") if path.stem != "index")
SCRIPTS = ("run", "quick", "compatibility", "docs", "package")


def places(nav):
    """What the navigation leads to, in order."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from places([below] if isinstance(below, str) else below)


def test_the_navigation_has_every_page_once():
    generated = [place for place, _ in hooks.api_pages()]
    notebooks = [hooks.home(path) for path in (ROOT / "notebooks").glob("*.ipynb")]
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(places(CONFIG["nav"])) == sorted([*pages, *hooks.HOMES.values(), *generated, *notebooks])


def test_pages_that_lie_elsewhere_are_there():
    assert all((ROOT / place).is_file() for place in hooks.HOMES)


def test_whatever_is_wrong_with_a_page_fails_the_build():
    command = text_of(ROOT / ".ci" / "docs")
    assert "--strict" in command
    assert "--quiet" not in command  # what is not logged is not counted either
    assert set(CONFIG["validation"]["links"].values()) == {"warn"}
    assert CONFIG["validation"]["nav"]["omitted_files"] == "warn"


def test_the_site_loads_nothing_from_elsewhere():
    assert CONFIG["theme"]["font"] is False
    assert not any("```mermaid" in text_of(page) or "<script src" in text_of(page) for page in PAGES)


@pytest.mark.parametrize("module", hooks.API)
def test_the_api_has_what_a_module_offers(module):
    imported = importlib.import_module(module)
    names = hooks.public_names(module)
    assert names
    assert all(hasattr(imported, name) for name in names)
    assert set(names) >= set(getattr(imported, "__all__", ()))


def test_no_name_of_the_api_is_described_twice():
    described = [name for _, text in hooks.api_pages() for name in re.findall(r"^::: \S+\.(\w+)$", text, re.MULTILINE)]
    assert "wrap" in described
    assert sorted(name for name in described if described.count(name) > 1) == []


@pytest.mark.parametrize(
    ("page", "target", "expected"),
    [
        ("README.md", "docs/pages/results/books.md", "results/books.md"),
        ("README.md", "hf_memoria/how_it_works.md", "concepts/how_it_works.md"),
        ("docs/pages/results/books.md", "speed.md", "speed.md"),
        ("docs/pages/results/books.md", "../../../README.md", "../index.md"),
        ("docs/pages/results/books.md", "../../../notebooks/quickstart.ipynb", "../notebooks/quickstart.ipynb"),
        ("docs/pages/results/books.md", "../../../LICENSE", "../files/LICENSE"),
        ("docs/pages/results/books.md", "gone.md", "gone.md"),
        ("docs/pages/results/books.md", "https://example.org/LICENSE", "https://example.org/LICENSE"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page, target, expected):
    path = ROOT / page
    shown = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(path), src_uri=hooks.home(path)))
    found = hooks.on_page_markdown(f"see [it]({target}#part)", page=shown, config=None, files=None)
    assert found == f"see [it]({expected}#part)"


@pytest.mark.per_file
@pytest.mark.parametrize("page", RESULTS, ids=name_of)
def test_results_come_with_a_command(page):
    commands = re.findall(r"python ((?:recipes|tests)/\S+)", " ".join(code_blocks("bash", page)))
    assert commands
    assert all((ROOT / command).exists() for command in commands)


@pytest.mark.per_file
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configs_that_a_page_names_are_there(page):
    for name in re.findall(r"recipes/configs/[\w./]+\.yaml", text_of(page)):
        assert (ROOT / name).is_file(), name


def test_every_published_result_is_on_a_page():
    """By a link to its figures or by its name."""
    text = " ".join(text_of(page) for page in PAGES)
    folders = {path.parent.name for path in (ROOT / "recipes" / "results").glob("*/*.json")}
    assert [folder for folder in sorted(folders) if f"results/{folder}/" not in text] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_of_the_gate_can_be_run(name):
    path = ROOT / ".ci" / name
    assert path.stat().st_mode & 0o111
    assert f".ci/{name}" in text_of(ROOT / "CONTRIBUTING.md") or name in ("docs", "package")


def test_the_quick_tests_are_there():
    listed = text_of(ROOT / ".ci" / "quick").split("fast=(")[1].split(")")[0]
    for word in listed.split():
        before, names, after = re.fullmatch(r"([^{]*)\{?([^}]*)\}?(.*)", word).groups()
        for name in names.split(","):
            assert (ROOT / f"{before}{name}{after}").exists(), word


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=name_of)
def test_workflows_call_the_scripts_and_nothing_else(path):
    for job in yaml.safe_load(text_of(path))["jobs"].values():
        runs = [step["run"] for step in job["steps"] if "run" in step]
        assert runs
        assert all(re.match(r"\.ci/(\w+)", run)[1] in SCRIPTS for run in runs)


def test_hooks_of_a_commit_run_what_the_gate_runs():
    (repository,) = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"]
    gate = text_of(ROOT / ".ci" / "run")
    assert {hook["entry"].split()[0] for hook in repository["hooks"]} == {"ruff", "mypy"}
    assert all(f"/{hook['entry'].split()[0]}" in gate for hook in repository["hooks"])
