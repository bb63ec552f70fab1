"""The recall recipe: its documents, what is learned from, how accuracy is counted, and a run at a small size."""

import json

import pytest
import recall
import torch
import yaml
from common.config import parse_arguments
from common.memory_arms import RECALL_ARMS
from common.recall import RecallTask, accuracy_by_lag, training_rows
from common.training import small_gpt2
from transformers.modeling_outputs import CausalLMOutput

from hf_memoria import wrap
from hf_memoria.training.lanes import lane_layout

pytestmark = pytest.mark.slow

TASK = RecallTask(segments=5, pairs=2, lags=3, keys=9, values=4, fillers=3, filler_pieces=1)
SMOKE = ("--config", recall.CONFIGS / "smoke.yaml")


def arguments(*flags):
    return parse_arguments(recall.Arguments, recall.CONFIGS, list(map(str, flags)))


def statements_and_questions(document, task):
    """Read a document word by word: which values each segment tells, by key, and which it answers."""
    told, asked = [], []
    for segment in document.split(task.segment_length):
        pieces = segment.view(-1, 2).tolist()
        said = [divmod(word - task.first_pair, task.values) for tell, word in pieces if tell == 0]
        told.append(dict(said))
        answers = [(word - 1, answer - task.first_value) for word, answer in pieces if 0 < word < task.first_value]
        asked.append(answers)
    return told, asked


def test_an_answer_is_what_was_told_so_many_segments_ago_and_nowhere_since():
    documents, lags = TASK.draw(40, torch.Generator().manual_seed(0))
    assert documents.shape == lags.shape == (40, 5 * TASK.segment_length)
    for document, lag in zip(documents, lags, strict=True):
        told, asked = statements_and_questions(document, TASK)
        marked = [[value for value in part.tolist() if value] for part in lag.split(TASK.segment_length)]
        for number in range(5):
            assert sorted(marked[number]) == sorted([1, 2, 3][:number] * 2)
            assert len(told[number]) == 2
            for (key, value), ago in zip(asked[number], marked[number], strict=True):
                assert told[number - ago][key] == value
                assert not any(key in since for since in told[number - ago + 1 : number + 1])


def test_every_piece_is_of_its_kind_and_stands_anywhere():
    documents, _ = TASK.draw(200, torch.Generator().manual_seed(1))
    first, second = documents[:, -TASK.segment_length :].view(200, -1, 2).unbind(-1)
    kinds = {"tells": first == 0, "asks": (first > 0) & (first < 10), "filler": first >= 50}
    expected = {"tells": (14, 49), "asks": (10, 13), "filler": (50, 52)}
    for kind, where in kinds.items():
        assert where.any(dim=0).all()
        assert (int(second[where].min()), int(second[where].max())) == expected[kind]
    assert torch.stack(list(kinds.values())).sum(0).eq(1).all()
    assert TASK.vocabulary == 53


def test_too_few_keys_are_refused():
    with pytest.raises(ValueError, match=r"keys must be at least pairs \* \(lags \+ 1\) = 8"):
        RecallTask(segments=5, pairs=2, lags=3, keys=7, values=4, fillers=3, filler_pieces=1)
    with pytest.raises(SystemExit):
        arguments("--keys", 3)


def test_rows_follow_one_another_in_lanes_and_answers_alone_are_targets():
    rows = training_rows(TASK, steps=7, lanes=4, generator=torch.Generator().manual_seed(0)).with_format("torch")
    assert (lane_layout(rows).lanes, lane_layout(rows).segment_length) == (4, TASK.segment_length)
    assert len(rows) >= 7 * 4
    begins = rows["reset_memory"][:].view(-1, 4)
    assert [begins[1:, lane].nonzero()[0].item() + 1 for lane in range(4)] == [1, 2, 3, 4]
    ids, targets = rows["input_ids"][:], rows["shift_labels"][:]
    row, place = (targets != -100).nonzero().unbind(1)
    assert len(row) == ((ids > 0) & (ids < 10)).sum()
    assert ((ids[row, place] > 0) & (ids[row, place] < 10)).all()
    assert torch.equal(targets[row, place], ids[row, place + 1])


class Knowing:
    """Answers right what was told so many segments ago, else wrong."""

    class config:  # noqa: N801
        memory = None

    def __init__(self, documents, lags, known):
        self.answers, self.lags, self.known, self.place = documents.roll(-1, 1), lags, known, 0

    def eval(self):
        return self

    def __call__(self, input_ids):
        here = slice(self.place, self.place + input_ids.shape[1])
        self.place = here.stop
        right = torch.isin(self.lags[:, here], torch.tensor(self.known))
        said = torch.where(right, self.answers[:, here], 0)
        return CausalLMOutput(logits=torch.nn.functional.one_hot(said, TASK.vocabulary).float() * 100)


def test_accuracy_is_counted_for_each_lag():
    documents, lags = TASK.draw(6, torch.Generator().manual_seed(2**31))
    measured = accuracy_by_lag(Knowing(documents, lags, [1, 3]), TASK, 6)
    assert (measured["lag_1"], measured["lag_2"], measured["lag_3"]) == (1.0, 0.0, 1.0)
    assert measured["accuracy"] == pytest.approx((4 + 2) / (4 + 3 + 2))
    assert measured["loss"] == pytest.approx(100 * 3 / 9, rel=1e-4)


def test_arms_differ_in_what_they_are_called_after():
    memories = {name: arm.memory(arguments()) for name, arm in RECALL_ARMS.items()}
    assert memories["none"] is None
    weights = {name: (memories[name].recall_weight > 0, memories[name].memory_weight > 0, memories[name].vicreg)
               for name in RECALL_ARMS if name.startswith("token")}  # fmt: skip
    assert weights["token"] == weights["token_bptt"] == (True, True, True)
    assert weights["token_no_recall"] == (False, True, True)
    assert weights["token_no_memory"] == (True, False, True)
    assert weights["token_no_vicreg"] == (True, True, False)
    assert memories["token"].bptt_segments == 0 < memories["token_bptt"].bptt_segments == memories["rmt"].bptt_segments
    assert memories["rmt"].encoder_layers == 0
    assert memories["engram"].kind == "engram"


def test_through_time_a_memory_learns_what_no_single_segment_tells(tmp_path):
    task = RecallTask(segments=3, pairs=1, lags=1, keys=2, values=2, fillers=2, filler_pieces=0)
    flags = ("--steps", 250, "--lanes", 16, "--logs", 2, "--num_tokens", 2, "--bptt_segments", 1)
    args = arguments(*flags, "--learning_rate", 5e-3, "--memory_learning_rate", 5e-3)
    found = {}
    for arm in ("none", "rmt"):
        torch.manual_seed(0)
        backbone = small_gpt2(
            vocabulary=task.vocabulary,
            end_of_text=0,
            positions=4,
            layers=2,
            hidden_size=32,
            heads=2,
            dropout=0.0,
            initializer_range=0.15,
        )
        model = wrap(backbone, memory=RECALL_ARMS[arm].memory(args))
        recall.train(model, task, args, 0, tmp_path)
        found[arm] = accuracy_by_lag(model, task, 64)["accuracy"]
    assert found["none"] < 0.7
    assert found["rmt"] > 0.9


def test_a_run_compares_every_arm_at_every_lag(tmp_path, capsys):
    results = recall.main(arguments(*SMOKE, "--output_dir", tmp_path))
    by_lag = json.loads((tmp_path / "by_lag.json").read_text())
    assert set(results["summary"]) == set(RECALL_ARMS)
    assert list(by_lag["accuracy_by_lag"]) == ["1", "2"]
    assert by_lag["guessing"] == 1 / 4
    for name in ("results", "by_lag", "composition", "slot_variance"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    curves = {arm: runs[0]["curves"] for arm, runs in results["runs"].items()}
    assert [step for step, _ in curves["none"]["loss"]] == [3, 6]
    assert {arm for arm in curves if "composition" in curves[arm]} == {
        "token", "token_of_words", "token_no_recall", "token_no_vicreg", "token_bptt"
    }  # fmt: skip
    assert {arm for arm in curves if "slot_variance" in curves[arm]} == set(RECALL_ARMS) - {"none", "engram"}
    assert curves["token"] != curves["token_no_vicreg"]
    assert "without VICReg" in capsys.readouterr().out


def test_every_config_can_be_read_and_holds_only_what_differs():
    base = yaml.safe_load((recall.CONFIGS / "base.yaml").read_text())
    for config in sorted(recall.CONFIGS.glob("*.yaml")):
        arguments("--config", config)
        if config.stem != "base":
            assert not {key for key, value in yaml.safe_load(config.read_text()).items() if base.get(key) == value}
