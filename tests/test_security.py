"""What a checkpoint can make this package do: read tensors and JSON that lie in it, and nothing else."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from families import small_memory, tiny_model, tiny_segments
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import hf_memoria
from hf_memoria.training.checkpoints import load_lanes, memory_file, save_lanes

PACKAGE = Path(hf_memoria.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

CALLS_THAT_RUN_CODE = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "numpy.load",
    "np.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
MODULES_THAT_RUN_CODE = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "cloudpickle",
    "shelve",
    "marshal",
    "subprocess",
    "runpy",
}

ALLOWED = {("cli/train.py", "runpy")}
"""`hf-memoria train` runs the recipe that its user names; nothing of a checkpoint is a recipe."""


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def what_runs_code(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from {dotted(node.func)} & CALLS_THAT_RUN_CODE
            yield from (keyword.arg for keyword in node.keywords if keyword.arg == "allow_pickle")
            weights_only = [keyword.value for keyword in node.keywords if keyword.arg == "weights_only"]
            yield from ("weights_only" for value in weights_only if not getattr(value, "value", False))
        elif isinstance(node, ast.Import):
            yield from {alias.name.partition(".")[0] for alias in node.names} & MODULES_THAT_RUN_CODE
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.partition(".")[0]} & MODULES_THAT_RUN_CODE


@pytest.mark.per_file
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_unpickles_or_evaluates(path):
    name = path.relative_to(PACKAGE).as_posix()
    found = {(name, what) for what in what_runs_code(path.read_text(encoding="utf-8"))}
    assert found <= ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "np.load('x', allow_pickle=True)",
        "load_state_dict('x', weights_only=False)",
        "eval('1')",
    ],
)
def test_what_would_be_wrong_is_seen(source):
    assert list(what_runs_code(source))


class Bomb:
    """What a pickle runs when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_checkpoint_is_not_opened(tmp_path):
    golden = Path(__file__).resolve().parents[2] / "shared" / "golden" / "gpt2_with_memoria"
    if not golden.is_dir():
        pytest.skip("needs the checkpoints in ../shared/golden")
    went_off = tmp_path / "went_off"
    folder = tmp_path / "reference"
    folder.mkdir()
    shutil.copy(golden / "config.json", folder)
    torch.save({"weights": Bomb(went_off)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must hold nothing but tensors"):
        hf_memoria.convert_reference_checkpoint(folder)
    memory = tmp_path / "memory.safetensors"
    memory.write_bytes(pickle.dumps(Bomb(went_off)))
    with pytest.raises(ValueError, match="safetensors"):
        hf_memoria.load_memory(memory)
    assert not went_off.exists()


@pytest.fixture
def checkpoint(tmp_path):
    tiny_model("GPT2", "Model", small_memory()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_nothing_of_a_checkpoint_runs_without_trust(checkpoint, tmp_path):
    ran = tmp_path / "ran"
    (checkpoint / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    path.write_text(json.dumps(config))
    for load in (
        hf_memoria.MemoriaGPT2Model.from_pretrained,
        hf_memoria.MemoriaGPT2Config.from_pretrained,
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
    ):
        load(checkpoint)
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)  # the installed class goes first
    assert type(model) is hf_memoria.MemoriaGPT2Model
    assert not ran.exists()


def a_state():
    model, memory = tiny_model("GPT2", "Model", small_memory()), None
    for inputs in tiny_segments("GPT2", steps=2):
        memory = model(**inputs, memory=memory).memory
    return memory


def test_an_id_is_never_part_of_a_path(tmp_path):
    inside, outside = tmp_path / "out" / "checkpoint-3", tmp_path / "outside"
    save_lanes(a_state(), outside, "../../outside", 0, 1)
    inside.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        load_lanes([inside], "../../outside", 0, 1)
    save_lanes(a_state(), inside, "../../elsewhere", 0, 1)
    assert not (tmp_path / "elsewhere").exists()
    assert memory_file(inside, 0, 1).is_file()


def test_a_folder_that_a_checkpoint_names_gives_no_memory_but_its_own(tmp_path):
    mine, named = tmp_path / "mine", tmp_path / "named"
    save_lanes(a_state(), mine, "mine", 0, 1)
    save_lanes(a_state(), named, "another", 0, 1)
    assert load_lanes([named, mine], "mine", 0, 1)[0].batch_size == 2
    with pytest.raises(FileNotFoundError, match="must lie beside its weights"):
        load_lanes([named], "mine", 0, 1)


def test_names_of_tensors_are_not_paths_and_unknown_ones_are_refused(tmp_path):
    path = tmp_path / "memory.safetensors"
    hf_memoria.save_memory(a_state(), path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), "../outside": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match="fields of the memory file"):
        hf_memoria.load_memory(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["memory.safetensors"]
