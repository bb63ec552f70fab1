"""No room left: an error, the old file as it was, and a run that goes on from its last whole checkpoint."""

import pytest

pytestmark = pytest.mark.slow

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from families import small_memory, tiny_model, tiny_segments
from state_content import same_content
import hf_memoria

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
model, memory = tiny_model("GPT2", "Model", small_memory()), None
states = []
for inputs in tiny_segments("GPT2", steps=6):
    memory = model(**inputs, memory=memory).memory
    states.append(memory)
path = folder / "memory.safetensors"
hf_memoria.save_memory(states[2], path, model.config)
size, before = path.stat().st_size, path.read_bytes()
weights = {name: weight.clone() for name, weight in model.state_dict().items()}
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for room in (0, 1, size // 2, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        hf_memoria.save_memory(states[5], path, model.config)
        raise SystemExit("it was written")
    except OSError as error:
        assert str(path) in str(error), error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_bytes() == before, room
    assert [entry.name for entry in folder.iterdir()] == ["memory.safetensors"], room
assert same_content(hf_memoria.load_memory(path, model), states[2])
assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
print("as it was")
"""

FULL_DISK_IN_TRAINING = """
import resource, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
import killing
from hf_memoria import last_checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, rows = Path(sys.argv[1]), killing.documents()
killing.train(rows, folder / "alone", 9)
killing.train(rows, folder / "filled", 3)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
largest = max(file.stat().st_size for file in (folder / "filled" / "checkpoint-3").iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
try:
    killing.train(rows, folder / "filled", 9)
    raise SystemExit("it was through")
except (OSError, RuntimeError):
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
last = Path(last_checkpoint(folder / "filled")).name
killing.train(rows, folder / "filled", 9)
first, second = (killing.end_of(folder / name, 9) for name in ("alone", "filled"))
same = all(torch.equal(value, second[name]) for name, value in first.items())
print(f"goes on from {last}, the same: {same}")
"""


def test_a_memory_file_is_whole_or_as_it_was(in_new_process, tmp_path):
    result = in_new_process("-c", FULL_DISK, tmp_path)
    assert result.stdout.startswith("as it was"), result.stderr


def test_a_training_goes_on_from_the_last_whole_checkpoint(in_new_process, tmp_path, request):
    result = in_new_process("-c", FULL_DISK_IN_TRAINING, tmp_path, request.path.parent)
    assert result.returncode == 0, result.stderr
    assert "goes on from checkpoint-3, the same: True" in result.stdout, result.stdout + result.stderr
