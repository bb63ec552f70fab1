"""What the README shows is what runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from datasets import Dataset

from hf_memoria import segment_documents

ROOT = Path(__file__).resolve().parents[1]
HAVE_LISTS = (
    *("backbones", "shared", "engram", "store", "token", "attentions", "lwpf", "generation"),
    *("models", "memoria_pytorch", "hub", "training", "compatibility", "cli"),
)
"""Folders whose files the README lists one by one."""

README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_loop_over_segments_runs(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = next(block for block in code_blocks("python") if "for step in range" in block)
    documents = [{"input_ids": torch.randint(1, 60, (40 + i,)).tolist()} for i in range(6)]
    books = segment_documents(Dataset.from_list(documents), segment_length=16, lanes=4)
    names = {"model": build().train(), "books": books}
    exec(compile(loop, "README.md", "exec"), names)
    assert names["memory"].batch_size == 4
    assert int(names["memory"].num_short_term.sum()) > 0
    assert (tmp_path / "memory.safetensors").is_file()


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
    example = next(block for block in code_blocks("python") if "register_family" in block)
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
    result = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == "my_qwen2 True [100, 100]", result.stderr


def test_a_sparse_distributed_memory_recalls():
    names = {}
    torch.manual_seed(0)
    block = next(block for block in code_blocks("python") if "PatternMemory(" in block)
    exec(compile(block, "README.md", "exec"), names)
    assert names["found"].reached.all()
    assert torch.equal(names["found"].values, names["patterns"])


def test_the_quickstart_names_what_there_is():
    import hf_memoria

    quickstart = code_blocks("python")[0]
    for name in re.search(r"from hf_memoria import (.*)", quickstart).group(1).split(", "):
        assert name in hf_memoria.__all__


def test_the_gate_runs_the_test_command_of_the_readme():
    _, test_command = (block for block in code_blocks("bash") if block.startswith("python3 -m venv"))
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, run = re.search(r"pip (install .*?) && \S*?(python -m pytest[^\n]*)", test_command).groups()
    assert install.split(maxsplit=1)[1] in gate.replace("-q ", "")
    assert f"{run}\n" in gate


def test_every_module_is_in_the_list_of_files():
    listed = README.split("## Files")[1].split("## Architecture")[0]
    for path in (ROOT / "hf_memoria").rglob("*.py"):
        if not path.name.startswith("__") and path.parent.name in HAVE_LISTS:
            assert path.name in listed, path


def test_links_to_files_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "hf_memoria").glob("*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_the_page_names_are_there():
    page = (ROOT / "hf_memoria" / "how_it_works.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page)
    assert len(named) > 8
    for name in named:
        assert (ROOT / "hf_memoria" / name).is_file(), name
