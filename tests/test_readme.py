"""What the README and the pages show is what runs."""

import ast
import importlib
import os
import re

import new_process
import pytest
import torch
import transformers
from datasets import Dataset
from pages import DOCS, PAGES, README, ROOT, block_with, code_blocks, dead_links, name_of, text_of

from hf_memoria import segment_documents

HAVE_LISTS = (
    *("backbones", "shared", "engram", "store", "token", "attentions", "lwpf", "generation"),
    *("models", "long_inputs", "memoria_pytorch", "hub", "training", "metrics", "compatibility", "cli"),
)
"""Folders whose files the page on architecture lists one by one."""

BANNED = {
    "called up": "retrieved",
    "call up": "retrieve",
    "calling up": "retrieving",
    "by lot": "random",
    "held against": "compared with",
    "first in, first out": "FIFO",
}
"""Words of ours, and the field's words for the same."""


def test_the_readme_is_short():
    assert README.stat().st_size <= 12 * 1024


@pytest.mark.slow
def test_the_example_prints_what_it_shows(tmp_path):
    (example,), (output,) = code_blocks("python"), code_blocks("text")
    (tmp_path / "example.py").write_text(example)
    result = new_process.run(["example.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert result.stdout == output, result.stderr
    assert len([line for line in example.splitlines() if line]) <= 13


def test_the_loop_over_segments_runs(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = block_with("for step in range")
    documents = [{"input_ids": torch.randint(1, 60, (40 + i,)).tolist()} for i in range(6)]
    books = segment_documents(Dataset.from_list(documents), segment_length=16, lanes=4)
    names = {"model": build().train(), "books": books}
    exec(compile(loop, "training.md", "exec"), names)
    assert names["memory"].batch_size == 4
    assert int(names["memory"].num_short_term.sum()) > 0
    assert (tmp_path / "memory.safetensors").is_file()


@pytest.mark.usefixtures("own_evaluate_caches")
def test_the_evaluations_run(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = torch.randint(1, 60, (6, 40))
    books = segment_documents(Dataset.from_dict({"input_ids": documents.tolist()}), segment_length=16, lanes=4)
    model = build()
    names = {"model": model, "books": books, "documents": documents}
    exec(compile(block_with("DocumentMetrics()"), "evaluating.md", "exec"), names)
    under_trainer = names["found"]
    exec(compile(block_with("evaluate.combine("), "evaluating.md", "exec"), names)
    found = names["found"]
    assert found["perplexity"] == pytest.approx(under_trainer["eval_memory_perplexity"], rel=1e-5)
    assert found["memory_off_perplexity"] == pytest.approx(under_trainer["eval_memory_off_perplexity"], rel=1e-5)
    assert abs(found["shuffled_minus_memory"]) > 0


@pytest.mark.slow
def test_the_family_of_a_users_own_runs(tmp_path):
    config = transformers.Qwen2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    example = block_with("import BackboneSpec")
    example = example.replace("Qwen/Qwen2.5-0.5B", str(tmp_path))
    (tmp_path / "my_qwen2.py").write_text(example)
    # In a process of its own: other tests add the same family.
    use = """
import torch
from my_qwen2 import MemoriaQwen2ForCausalLM, model
memory = None
for input_ids in torch.randint(0, 61, (3, 2, 9)):
    memory = model(input_ids, memory=memory).memory
print(MemoriaQwen2ForCausalLM.__module__, type(model) is MemoriaQwen2ForCausalLM, memory.num_short_term.tolist())
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    result = new_process.run(["-c", use], env=environment)
    assert result.stdout.strip() == "my_qwen2 True [100, 100]", result.stderr


def test_a_sparse_distributed_memory_recalls():
    names = {}
    torch.manual_seed(0)
    block = block_with("PatternMemory(")
    exec(compile(block, "sdm.md", "exec"), names)
    assert names["found"].reached.all()
    assert torch.equal(names["found"].values, names["patterns"])


@pytest.mark.per_file
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_imports_is_there(page):
    for block in code_blocks("python", page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("hf_memoria"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), alias.name


def test_the_gate_runs_the_test_command_of_the_readme():
    _, test_command = (block for block in code_blocks("bash") if block.startswith("python3 -m venv"))
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, run = re.search(r"pip (install .*?) && \S*?(python -m pytest[^\n]*)", test_command).groups()
    script = (ROOT / ".ci" / "install").read_text(encoding="utf-8")
    asked = [line for line in script.splitlines() if line.startswith("pip install") and "--report" in line]
    assert [install.split(maxsplit=1)[1] in line for line in asked] == [True]
    assert ".ci/install" in gate
    assert f"{run}\n" in gate


def test_every_module_is_in_the_list_of_files():
    (listed,) = (
        block for block in code_blocks("", DOCS / "contributing" / "architecture.md") if "hf_memoria/" in block
    )
    for path in (ROOT / "hf_memoria").rglob("*.py"):
        if not path.name.startswith("__") and path.parent.name in HAVE_LISTS:
            assert path.name in listed, path


@pytest.mark.per_file
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page):
    assert not dead_links(page)


def test_a_dead_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[one](page.md#part) [two](https://a.b) ![three](gone.png) `[4](code)`\n```\n[5](block)\n```\n")
    assert dead_links(page) == ["gone.png"]


@pytest.mark.per_file
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_use_the_words_of_the_field(page):
    text = " ".join(text_of(page).lower().split())
    assert not [f"{ours}: {theirs}" for ours, theirs in BANNED.items() if ours in text]


def test_files_that_the_page_names_are_there():
    page = (ROOT / "hf_memoria" / "how_it_works.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page)
    assert len(named) > 8
    for name in named:
        assert (ROOT / "hf_memoria" / name).is_file(), name
