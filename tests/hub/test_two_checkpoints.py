"""Several checkpoints that bring their code, in one process: each runs its own, whichever is loaded first."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from blocking import run_without_the_package
from families import SETTINGS, memoria_class, small_memory, tiny_model
from safetensors.torch import save_file

import hf_memoria
from hf_memoria import LwpfAttentionConfig, SdmAttentionConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
from mean_memory import MeanMemoryConfig  # noqa: E402

pytestmark = pytest.mark.slow

LOAD = Path(__file__).with_name("several.py").read_text()
HEADS = {"lwpf": "AutoModelForCausalLM", "sdm": "AutoModelForSequenceClassification", "mean": "AutoModelForCausalLM"}
"""Auto class of each kind of checkpoint; the second one's head builds its base model by AutoModel."""

CHANGES = {
    "memoria_attentions_interface.py": ("output.transpose(1, 2)", "2 * output.transpose(1, 2)"),
    "memoria_models_mixin.py": ("system_of(self.config.memory).read(", "later(self.config.memory, "),
    "memoria_own_mean_memory.py": ("state.positions + real", "state.positions + 10 * real"),
}
"""What the second version of the code does otherwise: in attention, in the forward, in the kind of memory."""

LATER = """

def later(memory: Any, model: Any, stock_forward: Any, state: Any, kwargs: dict[str, Any]) -> ModelOutput:
    output = system_of(memory).read(model, stock_forward, state, kwargs)
    output.logits = output.logits + 1.0
    return output
"""


def build():
    torch.manual_seed(0)
    config = memoria_class("GPT2", "Config")(**SETTINGS["GPT2"], memory=MeanMemoryConfig())
    return {
        "lwpf": tiny_model("GPT2", "ForCausalLM", small_memory(), attention=LwpfAttentionConfig()),
        "sdm": tiny_model(
            "Llama", "ForSequenceClassification", small_memory(), attention=SdmAttentionConfig(radius=3)
        ),
        "mean": memoria_class("GPT2", "ForCausalLM")(config).eval(),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints `one/<kind>` and, with other code, `two/<kind>`."""
    root = tmp_path_factory.mktemp("several")
    for kind, model in build().items():
        one, two = root / "one" / kind, root / "two" / kind
        model.save_pretrained(one)
        hf_memoria.export_remote_code(one)
        ids = torch.arange(16).reshape(2, 8)
        with torch.no_grad():
            save_file({"ids": ids, "answer": model(ids, memory=model(ids).memory).logits}, one / "expected.bin")
        shutil.copytree(one, two)
        change(two)
    return root


def change(folder):
    for name, (old, new) in CHANGES.items():
        path = folder / name
        if path.exists():
            source = path.read_text()
            assert source.count(old) == 1, name
            path.write_text(source.replace(old, new) + (LATER if "mixin" in name else ""))


@pytest.fixture(scope="module")
def told(folders, tmp_path_factory):
    """What is computed where the package is not, by the order in which versions were loaded."""
    work = tmp_path_factory.mktemp("work")
    printed = run_without_the_package(LOAD, work, folders, json.dumps(HEADS), work / "saved")
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("order", ["one two", "two one"])
def test_each_checkpoint_runs_its_own_code(told, order, kind):
    assert told["one"]["one"][kind]["is_expected"]
    assert not told["two"]["two"][kind]["is_expected"]
    for version in ("one", "two"):
        assert told[order][version][kind] == told[version][version][kind], version


@pytest.mark.parametrize("order", ["one two", "two one"])
def test_loading_one_makes_transformers_know_nothing_that_another_could_be_taken_for(told, order):
    assert told[order]["known"] == []
    assert all(told[order]["saved"].values()), "each saves the code that it came with"
