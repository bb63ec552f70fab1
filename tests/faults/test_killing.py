"""A training that is killed at random moments ends where one ends that never was."""

import json
from pathlib import Path

import pytest

from hf_memoria import last_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("killing.py")


def test_a_killed_training_ends_with_the_same_weights_and_memory(in_new_process):
    result = in_new_process(SCRIPT, "--kills", 3, "--steps", 40)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["differing"] == []
    assert len(told["attempts"]) == 3
    assert told["tensors"] > 60


def test_a_folder_without_a_whole_checkpoint_has_no_last_one(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for name in ("checkpoint-3", "checkpoint-x", "checkpoint-12"):
        (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"stateful_callbacks": {"MemoriaCallback": {"memory": null}}}', '{"stateful'],
    ids=repr,
)
def test_a_torn_state_is_no_whole_checkpoint(tmp_path, content):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(content)
    (folder / "model.safetensors").write_text("")
    assert last_checkpoint(tmp_path) is None
