"""The recipe that fine-tunes a pretrained model with a memory, and what its page says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from common.corpus import documents_of_length, read_files
from common.half_life import SCORES, Facts, ask_all, forgetting_curve, half_life, read_all
from common.pretrained import load_pretrained
from datasets import Dataset
from fine_tuning import CONFIGS, KEEPS, Arguments, arm_of, differences, training_summary
from transformers import AutoTokenizer

from hf_memoria import EpisodicMemoryConfig, wrap


def test_documents_to_measure_on_are_of_one_length_and_of_every_text(tokenizer, words):
    texts = Dataset.from_dict({"title": ["a", "b"], "text": [words[:6000], words[6000:12000]]})
    found = documents_of_length(texts, tokenizer, characters=1000, tokens=50, number=4)
    assert [len(document) for document in found] == [50] * 4
    starts = [tokenizer.decode(document)[:20] for document in found]
    assert [start in words[:6000] for start in starts] == [True, True, False, False]


def test_differences_are_paired_over_documents():
    plain = [{"by_document": {"own": [1.0, 2.0]}}, {"by_document": {"own": [1.0, 4.0]}}]
    memory = [{"by_document": {"own": [0.5, 2.0], "off": [1.0, 2.0], "other": [1.0, 3.0]}}] * 2
    found = differences({"plain": plain, "memory": memory})
    assert found["memory"]["above_plain"] == pytest.approx([-0.75, 0.25])
    assert found["memory"]["off_above_on"] == pytest.approx([0.25, 0.25])
    assert found["memory"]["other_above_on"] == pytest.approx([0.75, 0.25])
    assert "off_above_on" not in found["plain"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"arms": ["fifo"]}, "arms: must be among plain, window"),
        ({"arms": ["lora"], "task": "forgetting"}, "arms: must be among fifo, learned"),
        ({"documents": 1}, "documents: must be 2 or more, since each is read with another's memory; got 1"),
        ({"distill": 1.5}, "distill: must be from 0 to 1; got 1.5"),
        ({"kept": 256}, "kept: must be above 256, the positions that stay whatever is chosen; got 256"),
        ({"train_seconds": 0}, "train_seconds: must be above 0; got 0"),
        ({"gate_learning_rate": 0}, "gate_learning_rate: must be above 0; got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, message):
    import yaml

    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    with pytest.raises(ValueError, match=message):
        Arguments(**{**base, "seeds": ["0"], "output_dir": Path("out"), **flags})


@pytest.fixture
def flags(llama, tokenizer, words, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(words[:60000], encoding="utf-8")
    assert len(read_files([str(tmp_path / "text.txt")])) == 1
    named = {"model_name_or_path": "model", "train_files": "text.txt", "files": "text.txt", "output_dir": "out"}
    return [
        "--config",
        CONFIGS / "smoke.yaml",
        *(word for name, value in named.items() for word in (f"--{name}", value)),
    ]


def test_every_arm_runs_and_is_not_run_again(run_here, flags, tmp_path):
    script = CONFIGS.parents[1] / "fine_tuning.py"
    printed = run_here(script, *flags, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["machine_in_words"].endswith("no GPU" if not torch.cuda.is_available() else "a GPU")
    for name, (run,) in results["runs"].items():
        assert arm_of(name).label in printed
        assert (run["steps"] > 0) == ("lora" in name or "alone" in name)
        own, paired = run["by_document"], results["paired"][name]
        has_memory = any(kind in name for kind in ("shared", "keys", "attended", "episodic", "engrams", "tokens"))
        assert set(own) == ({"own", "off", "other"} if has_memory else {"own"})
        assert ("other_above_on" in paired) == has_memory
    shared_run, plain = results["runs"]["shared"][0], results["runs"]["plain"][0]
    assert shared_run["off"] == pytest.approx(plain["perplexity"], rel=1e-5)
    assert len({shared_run["perplexity"], shared_run["off"], shared_run["other"]}) == 3
    run_here(script, *flags, cwd=tmp_path)
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["runs"] == results["runs"]


def test_every_memory_is_asked_for_facts(run_here, flags, tmp_path):
    sizes = ["--task", "forgetting", "--segment_length", "64", "--kept", "128", "--arms", *KEEPS]
    run_here(CONFIGS.parents[1] / "fine_tuning.py", *flags, *sizes, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for name in KEEPS:
        (run,) = results["runs"][name]
        assert set(run["asked"]) == {"0", "1", "3"}
        assert set(run["asked"]["0"]) == {"right", "log_probability", "gain"}
        for of in SCORES:
            assert set(results[of]["curves"][name]) == {"0", "1", "3"}
            assert name in results[of]["half_life"]
    fifo, unbounded = (results["runs"][name][0]["asked"]["3"]["gain"] for name in ("fifo", "unbounded"))
    assert fifo != unbounded
    assert (tmp_path / "out" / "gain.png").exists()


def test_a_kept_model_is_asked_for_facts_with_what_it_learned(run_here, flags, tmp_path):
    script, forgetting = CONFIGS.parents[1] / "fine_tuning.py", ["--task", "forgetting", "--arms", "fifo"]
    train = ["--arms", "shared_lora", "--keep_models", "true", "--train_seconds", "2", "--learning_rate", "0.1"]
    run_here(script, *flags, *train, cwd=tmp_path)
    sizes = [*forgetting, "--segment_length", "64", "--kept", "128"]
    kept = ["--model_name_or_path", "out/models/shared_lora"]
    asked = {}
    for name, model in {"untrained": [], "trained": kept}.items():
        run_here(script, *flags, *sizes, *model, "--output_dir", name, cwd=tmp_path)
        asked[name] = json.loads((tmp_path / name / "results.json").read_text())["runs"]["fifo"][0]["asked"]
    assert asked["trained"] != asked["untrained"]
    # The memory is that of the curve, not the one that it was trained with.
    model, _ = load_pretrained(str(tmp_path / "out/models/shared_lora"))
    assert model.config.memory.segment_length == 16
    facts = Facts(*_text_of(tmp_path), (0, 1, 3), 64).draw(2, 0)
    settings = {"separate_read": False, "share_attention": True, "top_k": None, "keep": "fifo", "capacity": 132}
    anew = wrap(model, memory=EpisodicMemoryConfig(**settings, stm_capacity=64, segment_length=64)).eval()
    found = ask_all(anew, read_all(anew, facts), facts)
    assert asked["trained"]["3"]["log_probability"] == pytest.approx(found[3]["log_probability"], abs=1e-4)


def _text_of(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return tokenizer, tokenizer((folder / "text.txt").read_text(encoding="utf-8"))["input_ids"]


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "recipes" / "results" / "fine_tuning"


def page():
    return (ROOT / "docs/pages/results/fine_tuning.md").read_text(encoding="utf-8").splitlines()


def published(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def paired(values):
    return f"{values[0]:+.3f} ± {values[1]:.3f}"


def row_of(name, results):
    (run,), differences = results["runs"][name], results["paired"][name]
    measured = run["by_document"]
    others = [f"{run[of]:.2f}" if of in measured else "" for of in ("off", "other")]
    above = "" if name == "lora" else paired(differences["above_lora"])
    seconds = [f"{run[of]:.0f}" for of in ("train_seconds", "test_seconds")]
    cells = [arm_of(name).label, f"{run['perplexity']:.2f}", *others, above, str(run["steps"]), *seconds]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def worth_of(name, results):
    differences = results["paired"][name]
    return (
        f"| {arm_of(name).label} | {paired(differences['off_above_on'])} | {paired(differences['other_above_on'])} |"
    )


def curve_of(name, results, of):
    life = results[of]["half_life"][name]
    cells = [f"{value:.{2 if of == 'right' else 1}f}" for value in results[of]["curves"][name].values()]
    cells.append(f"over {max(results['arguments']['ages'])}" if life is None else f"{life:.1f}")
    return f"| {KEEPS[name][0]} | {' | '.join(cells)} |"


def test_the_page_has_every_arm_with_its_figures():
    results, lines = published("base"), page()
    for name, (run,) in results["runs"].items():
        assert row_of(name, results) in lines
        if "off" in run["by_document"]:
            assert worth_of(name, results) in lines


@pytest.mark.parametrize(
    ("name", "scores"), [("forgetting", SCORES), ("forgetting_tuned", ("right", "over_guessing"))]
)
def test_the_page_has_every_forgetting_curve(name, scores):
    results, lines = published(name), page()
    for name, (run,) in results["runs"].items():
        assert all(len(values["right"]) == 4 for values in run["asked"].values())
        for of in scores:
            assert curve_of(name, results, of) in lines
            curve = forgetting_curve([run["asked"]], of)
            assert list(results[of]["curves"][name].values()) == pytest.approx(list(curve.values()))
            assert results[of]["half_life"][name] == pytest.approx(half_life(curve))


def test_the_page_says_how_far_half_lives_of_a_trained_model_are_from_those_before():
    before, after = published("forgetting"), published("forgetting_tuned")
    moved = {
        of: {name: life - before[of]["half_life"][name] for name, life in after[of]["half_life"].items()}
        for of in SCORES
    }
    assert max(map(abs, moved["over_guessing"].values())) < 0.3
    gains = sorted(-change for change in moved["gain"].values())
    text = " ".join(page())
    assert f"shorter, by {gains[0]:.1f} to {gains[-2]:.1f} and of a random choice by {gains[-1]:.1f}" in text
    lives = [f"{results['right']['half_life']['lifespan']:.1f}" for results in (before, after)]
    assert f"lifespans go from {lives[0]} to {lives[1]}" in text


HIGHER = "memory's rate 1e-2"
APART = ("arms", "output_dir", "memory_learning_rate")


def row_of_equal_steps(name, results):
    (run,), differences = results["runs"][name], results["paired"][name]
    others = [f"{run[of]:.2f}" if of in run["by_document"] else "" for of in ("off", "other")]
    above = "" if name == "lora_in_order" else paired(differences["above_lora_in_order"])
    worth = [paired(differences[f"{of}_above_on"]) if others[0] else "" for of in ("off", "other")]
    cells = [arm_of(name).label, f"{run['perplexity']:.2f}", *others, above, *worth]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def row_of_higher_rate(name, results, equal):
    """A row of an arm whose memory has a higher rate, beside LoRA alone, which has none."""
    (run,), alone = results["runs"][name], equal["runs"]["lora_in_order"][0]["by_document"]["own"]
    own = np.subtract(run["by_document"]["own"], alone)
    above = paired([own.mean(), own.std(ddof=1) / len(own) ** 0.5])
    worth = [paired(results["paired"][name][f"{of}_above_on"]) for of in ("off", "other")]
    perplexities = [f"{run[of]:.2f}" for of in ("perplexity", "off", "other")]
    return f"| {' | '.join([f'{arm_of(name).label}, {HIGHER}', *perplexities, above, *worth])} |"


def row_of_gradients(label, name, results, plain):
    """A row of norms, each beside LoRA's alone at the same step."""
    training, curves = results["training"][name], results["runs"][name][0]["curves"]
    whole, adapters = (np.array(curves[of])[:, 1] / plain for of in ("grad_norm", "grad_norm_adapters"))
    cells = [f"{training['grad_norm_median']:.2f}", f"{training['grad_norm_most']:.2f}"]
    cells += [f"{whole.max():.1f}", str((whole > 2).sum())]
    has_adapters = training["grad_norm_adapters_most"] > 0
    cells += [f"{training['grad_norm_adapters_most']:.2f}", f"{adapters.max():.2f}"] if has_adapters else ["", ""]
    parts = [training[f"grad_norm_{part}_most"] for part in ("memory", "gates")]
    cells += [f"{part:.2f}" if part else "" for part in parts]
    logged = [training.get(of) for of in ("gate", "working_cosine", "working_rms")]
    cells += ["" if value is None else f"{value:.{digits}f}" for value, digits in zip(logged, (4, 4, 1), strict=True)]
    return f"| {label} | {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def plain_norms():
    return np.array(published("equal_steps")["runs"]["lora_in_order"][0]["curves"]["grad_norm"])[:, 1]


def test_the_page_has_every_arm_of_equal_steps_and_its_gradients():
    results, lines = published("equal_steps"), page()
    for name, (run,) in results["runs"].items():
        assert run["steps"] == results["arguments"]["train_steps"]
        assert row_of_equal_steps(name, results) in lines
        assert row_of_gradients(arm_of(name).label, name, results, plain_norms()) in lines
    assert results["training"] == training_summary(results["runs"])


def test_the_page_has_what_a_higher_rate_does():
    results, equal, lines = published("higher_rate"), published("equal_steps"), page()
    assert {**results["arguments"], **dict.fromkeys(APART)} == {**equal["arguments"], **dict.fromkeys(APART)}
    for name in results["runs"]:
        assert row_of_higher_rate(name, results, equal) in lines
        assert row_of_gradients(f"{arm_of(name).label}, {HIGHER}", name, results, plain_norms()) in lines
