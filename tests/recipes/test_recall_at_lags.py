"""The task whose answers stand some segments back, and its recipe from the command line."""

import json

import pytest
import torch
from common.lag_recall import ASK, TELL, LagRecallTask, lag_training_rows
from recall_at_lags import CONFIGS

TASK = LagRecallTask(segments=9, pairs=2, lags=(1, 5), keys=16, values=4, fillers=3)


def test_an_answer_was_told_so_many_segments_ago_and_nowhere_in_its_segment():
    ids, lags = TASK.draw(20, torch.Generator().manual_seed(0))
    length, asked = TASK.segment_length, 0
    for document, of in zip(ids.tolist(), lags.tolist(), strict=True):
        for place, lag in enumerate(of):
            if not lag:
                continue
            asked += 1
            segment = place // length
            key, value = document[place], document[place + 1]
            told = document[(segment - lag) * length : (segment - lag + 1) * length]
            assert document[place - 1] == ASK
            at = [i for i in range(0, length, 3) if told[i] == TELL and told[i + 1] == key]
            assert [told[i + 2] for i in at] == [value]
            own = document[segment * length : (segment + 1) * length]
            assert not [i for i in range(0, length, 3) if own[i] == TELL and own[i + 1] == key]
    assert asked == 20 * (8 + 4)


def test_only_answers_are_targets():
    rows = lag_training_rows(TASK, steps=9, lanes=2, generator=torch.Generator().manual_seed(0))
    for row in rows:
        for place, target in enumerate(row["shift_labels"]):
            follows = place > 0 and row["input_ids"][place - 1] == ASK
            assert (target != -100) == follows
            if follows:
                assert TASK.first_value <= target < TASK.first_value + TASK.values


def test_keys_have_to_be_enough():
    with pytest.raises(ValueError, match=r"keys must be at least pairs \* \(longest lag \+ 1\) = 12; got 11"):
        LagRecallTask(segments=9, pairs=2, lags=(1, 5), keys=11, values=4, fillers=3)


@pytest.mark.parametrize(
    ("loop", "arms"), [("false", ["none", "episodic", "episodic_and_shared"]), ("true", ["episodic"])]
)
def test_every_arm_runs(tmp_path, run_here, loop, arms):
    flags = ["--config", CONFIGS / "smoke.yaml", "--loop", loop, "--arms", *arms, "--output_dir", tmp_path / "out"]
    run_here(CONFIGS.parents[1] / "recall_at_lags.py", *flags, cwd=tmp_path)
    by_lag = json.loads((tmp_path / "out" / "by_lag.json").read_text())["accuracy_by_lag"]
    assert set(by_lag) == {"1", "3"}
    assert set(by_lag["1"]) == set(arms)
    assert (tmp_path / "out" / "by_lag.png").exists()
    assert "Asked for k" in (tmp_path / "out" / "looks_seed_0.html").read_text()
