"""The recipe from its command line, on a few topics of Python's language reference."""

import json

import pytest
import yaml
from common.config import parse_arguments
from common.tokenizer import train_tokenizer
from language_modeling import CONFIGS, Arguments, build_arms
from transformers import AutoConfig, AutoTokenizer

pytestmark = pytest.mark.slow

RECIPE = CONFIGS.parents[1] / "language_modeling.py"

CASES = ("memory", "memory_off", "shuffled", "plain", "sliding")


@pytest.fixture(scope="module")
def folder(run_here, tmp_path_factory):
    """What two seeds leave, run from a folder that is not the repository."""
    from pydoc_data.topics import topics

    base = tmp_path_factory.mktemp("recipe")
    for split, names in (("train", ("types", "import", "try")), ("validation", ("calls", "strings", "execmodel"))):
        (base / split).mkdir()
        for name in names:
            (base / split / f"{name}.txt").write_text(topics[name][:6000], encoding="utf-8")
    config = CONFIGS / "smoke.yaml"
    flags = ["--config", config, "--train_file", "train", "--validation_file", "validation/*.txt", "--seeds", "0,1"]
    printed = run_here(RECIPE, *flags, "--max_steps", "6", "--output_dir", "out", cwd=base)
    (base / "out" / "stdout.txt").write_text(printed, encoding="utf-8")
    return base / "out"


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "seed_0" / "results.json").read_text())


def test_every_case_is_measured_on_the_same_tokens(results):
    assert tuple(results["cases"]) == CASES
    tokens = results["corpus"]["validation"]["tokens"] - 3  # the first of each document is not scored
    for numbers in results["cases"].values():
        bins = numbers["perplexity_by_position"]
        assert sum(part["tokens"] for part in bins) == tokens
        assert len(numbers["nll_per_document"]) == 3
        assert 1 < numbers["perplexity"]["value"] < 1000  # the vocabulary
        assert numbers["perplexity"]["error"] > 0
        assert numbers["bits_per_byte"]["value"] > 0


def test_cases_differ_only_where_they_should(results):
    first = {case: numbers["perplexity_by_position"][0]["perplexity"] for case, numbers in results["cases"].items()}
    later = {case: numbers["perplexity_by_position"][2]["perplexity"] for case, numbers in results["cases"].items()}
    assert first["memory"] == pytest.approx(first["memory_off"]) == pytest.approx(first["shuffled"])
    assert first["sliding"] == pytest.approx(first["plain"])
    assert len(set(later.values())) == len(CASES)
    assert results["sliding_window"]["flops_ratio"] == pytest.approx(1, abs=0.05)


def test_arms_start_from_the_same_weights_and_take_the_same_steps(results):
    losses, parameters = results["training_loss"], results["parameters"]
    assert [step for step, _ in losses["memory"]] == [step for step, _ in losses["plain"]] == [1, 2, 3, 4, 5, 6]
    assert losses["memory"][0][1] == losses["plain"][0][1]  # first segments: nothing to remember
    assert losses["memory"][-1][1] != losses["plain"][-1][1]
    assert parameters["memory"] > parameters["plain"]


def test_flags_win_over_the_variant_and_the_variant_over_base(results):
    assert results["arguments"]["max_steps"] == 6
    assert results["arguments"]["layers"] == 1
    assert results["arguments"]["learning_rate"] > 0


def test_plot_model_and_continuation_are_there(folder):
    for seed in (0, 1):
        run = folder / f"seed_{seed}"
        assert (run / "results.png").read_bytes().startswith(b"\x89PNG")
        config = AutoConfig.from_pretrained(run / "model")
        assert (config.model_type, config.memory.num_memories, config.memory.segment_length) == ("memoria-gpt2", 4, 64)
        generated = json.loads((run / "generated.json").read_text())
        prompt = json.loads((run / "prompt.json").read_text())
        tokenizer = AutoTokenizer.from_pretrained(run / "model")
        assert len(prompt) == 4 * 64 + 32
        assert generated["prompt"] == tokenizer.decode(prompt[-32:])
        assert generated["continuation"].strip()
        assert repr(generated["continuation"]) in (folder / "stdout.txt").read_text()


def test_several_seeds_give_their_mean_and_spread(folder, results):
    summary = json.loads((folder / "results.json").read_text())
    other = json.loads((folder / "seed_1" / "results.json").read_text())
    assert summary["seeds"] == [0, 1]
    for case in CASES:
        values = [run["cases"][case]["perplexity"]["value"] for run in (results, other)]
        assert values[0] != values[1]
        assert summary["cases"][case]["perplexity"]["value"] == pytest.approx(sum(values) / 2)
        assert summary["cases"][case]["perplexity"]["error"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert "Mean over seeds [0, 1]" in (folder / "stdout.txt").read_text()


def test_help_lists_the_settings_and_hides_the_inner_one(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, CONFIGS, ["--help"])
    settings = capsys.readouterr().out.split("options:")[1]
    assert "--memory_learning_rate" in settings
    assert "--generate_from" not in settings


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_can_be_read_and_holds_only_what_differs(config):
    base, settings = (yaml.safe_load(path.read_text()) for path in (CONFIGS / "base.yaml", config))
    args = parse_arguments(Arguments, CONFIGS, ["--config", str(config)])
    assert args.memory_config().segment_length == args.segment_length
    if config.stem != "base":
        assert not {key for key, value in settings.items() if base.get(key) == value}


def test_an_episodic_memory_of_a_llama_takes_the_place_of_engrams(folder, run_here):
    memory = {"kind": "episodic", "share_attention": True, "capacity": 64, "top_k": 8}
    flags = ["--config", CONFIGS / "smoke.yaml", "--train_file", "train", "--validation_file", "validation/*.txt"]
    flags += ["--seeds", 0, "--max_steps", 3, "--backbone", "llama", "--positions", 512, "--output_dir", "episodes"]
    run_here(RECIPE, *flags, "--memory", json.dumps(memory), cwd=folder.parent)
    results = json.loads((folder.parent / "episodes" / "results.json").read_text())
    assert tuple(results["cases"]) == CASES
    assert results["sliding_window"]["mean_held"] > 32
    assert results["sliding_window"]["flops_ratio"] == pytest.approx(1, abs=0.05)


def test_memory_tokens_take_the_place_of_engrams_and_an_arm_can_be_left_out(folder, run_here):
    memory = json.dumps({"kind": "token", "num_tokens": 3, "encoder_layers": 1})
    flags = ["--config", CONFIGS / "smoke.yaml", "--train_file", "train", "--validation_file", "validation/*.txt"]
    flags += ["--seeds", 0, "--arms", "memory", "--max_steps", 3, "--memory", memory, "--output_dir", "tokens"]
    run_here(RECIPE, *flags, cwd=folder.parent)
    results = json.loads((folder.parent / "tokens" / "results.json").read_text())
    assert tuple(results["cases"]) == ("memory", "memory_off", "shuffled")
    assert results["sliding_window"] is None
    losses = [loss for _, loss in results["training_loss"]["memory"]]
    statistics = results["memory_statistics"]
    assert [loss for _, loss in statistics["memory/task_loss"]] == losses
    assert len(statistics["memory/slot_variance"]) == len(statistics["memory/composition"]) == len(losses) == 3
    assert AutoConfig.from_pretrained(folder.parent / "tokens" / "model").memory.num_tokens == 3
    assert json.loads((folder.parent / "tokens" / "generated.json").read_text())["continuation"].strip()


@pytest.mark.parametrize(
    "flags",
    [["--arms", "plain"], ["--arms", "memory", "none"], ["--memory", "tokens"], ["--memory", '{"kind": "tokens"}']],
)
def test_arms_and_memories_that_there_are_not_end_the_program(flags, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, CONFIGS, flags)
    assert f"argument {flags[0]}: must be" in capsys.readouterr().err


def test_a_window_longer_than_the_positions_is_an_error():
    args = parse_arguments(Arguments, CONFIGS, ["--sliding_window", "65", "--positions", "64"])
    tokenizer = train_tokenizer(["some text"], 300)
    with pytest.raises(ValueError, match="sliding_window must be at most the backbone's 64; got 65"):
        build_arms(args, tokenizer, seed=0)


@pytest.mark.parametrize(
    ("flags", "gate"),
    [([], None), (["--model_name_or_path", "x"], "auto"), (["--model_name_or_path", "x", "--gate", "none"], None)],
)
def test_reads_of_a_checkpoint_begin_closed_if_nothing_else_is_said(flags, gate):
    assert parse_arguments(Arguments, CONFIGS, ["--memory", "{}", *flags]).memory_config().gate == gate


def test_a_packaged_model_is_known_by_its_short_name(monkeypatch):
    args = parse_arguments(Arguments, CONFIGS, ["--model_name_or_path", "smollm2"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="the weights of smollm2 must be installed"):
        build_arms(args, train_tokenizer(["some text"], 300), seed=0)
