"""`hf-memoria`: every command, its help, and its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import small_memory, small_tokens, stock_config, tiny_model, tiny_segments
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

import hf_memoria
from hf_memoria.cli import doctor, main
from hf_memoria.cli.main import COMMANDS
from hf_memoria.memories.interface import SYSTEMS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *words):
    status = main([str(word) for word in words])
    told = capsys.readouterr()
    return status, told.out, told.err


def exit_of(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(list(words))
    told = capsys.readouterr()
    return left.value.code, told.out + told.err


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny GPT-2 with memory and a tokenizer of single letters."""
    model = tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8))
    model.save_pretrained(tmp_path / "model")
    words = {chr(97 + i): i for i in range(26)} | {"?": 26}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_help_names_every_command_and_shows_examples(capsys):
    code, told = exit_of(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert command.help in told
        code, own = exit_of(capsys, command.name, "--help")
        assert code == 0
        assert f"hf-memoria {command.name} " in own.split("examples:")[1]


@pytest.mark.parametrize("words", [[], ["nothing"], ["doctor", "--nothing"], ["inspect"]])
def test_words_that_make_no_sense_end_with_the_usage(capsys, words):
    code, told = exit_of(capsys, *words)
    assert code == 2
    assert "usage: hf-memoria" in told


def test_an_error_is_one_line_unless_its_traceback_is_asked_for(capsys, tmp_path):
    status, out, err = call(capsys, "inspect", tmp_path / "none.safetensors")
    assert (status, out) == (1, "")
    assert err.startswith("hf-memoria inspect: error: path must be a memory file")
    assert "Traceback" not in err
    status, _, err = call(capsys, "inspect", "--traceback", tmp_path / "none.safetensors")
    assert status == 1
    assert "Traceback" in err


def test_the_entry_point_starts_without_a_clone_around_it(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "hf_memoria.cli", "doctor", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(result.stdout)
    assert result.returncode == (1 if found["problems"] else 0)
    assert found["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["problems"] == {}, "what this package uses of others has changed"


def test_doctor_tells_people_the_same(capsys):
    status, out, _ = call(capsys, "doctor")
    assert status == 0
    assert "transformers" in out
    assert "0 problems" in out
    assert "extra recipes    installed" in out


def test_doctor_says_what_an_extra_lacks(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scikit-learn" else "99")
    assert "extra recipes    lacks scikit-learn" in call(capsys, "doctor")[1]
    assert doctor.examine()["extras"]["docs"] == []


def test_a_module_that_is_missing_is_told_with_the_extra_that_brings_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    config = write_recipe(tmp_path, "import sklearn")
    status, _, err = call(capsys, "train", config)
    assert status == 1
    assert "pip install 'hf-memoria[recipes]'" in err
    sys.modules.pop("beside")


def test_the_version_is_the_packages(capsys):
    assert exit_of(capsys, "--version") == (0, f"hf-memoria {hf_memoria.__version__}\n")


def write_recipe(folder, body="print('ran', sys.argv[1:], __file__)"):
    (folder / "configs" / "mine").mkdir(parents=True)
    (folder / "mine.py").write_text(f"import sys\nimport beside\n{body}\n")
    (folder / "beside.py").write_text("")
    (folder / "configs" / "mine" / "base.yaml").write_text("steps: 1\n")
    return folder / "configs" / "mine" / "base.yaml"


def test_train_finds_the_recipe_by_the_folder_of_its_config(capsys, tmp_path):
    config = write_recipe(tmp_path)
    status, out, _ = call(capsys, "train", config, "--steps", "3")
    assert status == 0
    assert out.strip() == f"ran {['--config', str(config), '--steps', '3']} {tmp_path / 'mine.py'}"
    sys.modules.pop("beside")


@pytest.mark.parametrize("named", ["mine", "mine/base"])
def test_train_finds_a_config_by_name(capsys, tmp_path, named):
    write_recipe(tmp_path)
    status, out, _ = call(capsys, "train", named, "--recipes", tmp_path)
    assert (status, out[:3]) == (0, "ran")
    sys.modules.pop("beside")


@pytest.mark.parametrize("named", ["mine.py", "mine"])
def test_a_config_elsewhere_names_its_recipe(capsys, tmp_path, named):
    write_recipe(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(f"recipe: {named}\nsteps: 2\n")
    status, out, _ = call(capsys, "train", config, "--recipes", tmp_path)
    assert (status, out[:3]) == (0, "ran")
    sys.modules.pop("beside")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.yaml"], "CONFIG must be a file"),
        (["none"], "RECIPE one of mine"),
        (["mine/none"], "VARIANT one of base"),
        (["{folder}/torn.yaml"], "torn.yaml must be YAML"),
        (["{folder}/lost.yaml"], "must name its recipe"),
        (["{folder}/wrong.yaml"], "recipe must be a file"),
        (["{folder}/odd.yaml"], "recipe must be a name"),
        (["mine", "--recipes", "{folder}/nowhere"], "no part of the installed package"),
    ],
)
def test_train_says_what_is_not_there(capsys, tmp_path, words, told):
    write_recipe(tmp_path)
    (tmp_path / "lost.yaml").write_text("steps: 2\n")
    (tmp_path / "wrong.yaml").write_text("recipe: gone.py\n")
    (tmp_path / "odd.yaml").write_text("recipe: 3\n")
    (tmp_path / "torn.yaml").write_text("recipe: [\n")
    words = [word.format(folder=tmp_path) for word in words]
    more = [] if "--recipes" in words else ["--recipes", tmp_path]
    status, _, err = call(capsys, "train", *words, *more)
    assert status == 1
    assert told in err


def test_an_error_in_a_recipe_has_no_traceback_and_leaves_the_path_alone(capsys, tmp_path):
    config = write_recipe(tmp_path, "raise ValueError('steps must be 3')")
    argv, path = list(sys.argv), list(sys.path)
    status, _, err = call(capsys, "train", config)
    assert (status, err.splitlines()[0]) == (1, "hf-memoria train: error: steps must be 3")
    assert (sys.argv, sys.path) == (argv, path)
    sys.modules.pop("beside")


def test_every_config_of_the_repository_belongs_to_a_recipe():
    from hf_memoria.cli.train import find_recipe

    configs = sorted(ROOT.glob("recipes/configs/*/*.yaml"))
    assert configs
    for config in configs:
        assert find_recipe(config).parent in (ROOT / "recipes", ROOT / "recipes" / config.parent.name)


def test_recipes_read_configs_that_name_them(tmp_path):
    from dataclasses import dataclass

    sys.path.insert(0, str(ROOT / "recipes"))
    from common.config import parse_arguments

    @dataclass
    class Arguments:
        steps: int = 1

    (tmp_path / "base.yaml").write_text("recipe: mine\nsteps: 2\n")
    assert parse_arguments(Arguments, tmp_path, []).steps == 2


def test_generate_goes_on_from_a_prompt_and_keeps_the_memory(capsys, checkpoint, tmp_path):
    kept = tmp_path / "kept.safetensors"
    words = ("generate", checkpoint, "--prompt", "abcdefghijkl", "--max-new-tokens", 9)
    status, plain, _ = call(capsys, *words)
    assert status == 0
    status, out, err = call(capsys, *words, "--save-memory", kept)
    assert (status, out) == (0, plain)
    assert str(kept) in err
    assert hf_memoria.load_memory(kept).step.tolist() == [3]  # 12 read and 9 written, in segments of 8
    status, later, _ = call(capsys, *words, "--memory", kept)
    assert status == 0
    assert later != plain


def test_sampling_follows_its_seed(capsys, checkpoint):
    words = ("generate", checkpoint, "--prompt", "abc", "--sample", "--temperature", 2.0, "--seed")
    first, again, other = (call(capsys, *words, seed)[1] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prompt", ""], "at least one token"),
        (["--prompt", "a", "--memory", "none.safetensors"], "path must be a memory file"),
        (["--prompt-file", "none.txt"], "none.txt"),
        (["--prompt", "a", "--top-p", "0.9"], "--top-p must come with --sample"),
    ],
)
def test_generate_says_what_is_wrong(capsys, checkpoint, words, told):
    status, _, err = call(capsys, "generate", checkpoint, *words)
    assert status == 1
    assert told in err


@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["chat"]])
def test_a_checkpoint_without_a_tokenizer_is_told_in_one_line(capsys, tmp_path, command):
    tiny_model("GPT2", "ForCausalLM", small_tokens()).save_pretrained(tmp_path)
    name, *more = command
    status, _, err = call(capsys, name, tmp_path, *more)
    assert status == 1
    assert f"MODEL must hold a tokenizer; the folder {tmp_path} has none: tokenizer.save_pretrained(" in err
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["convert", "--memory"]])
def test_a_checkpoint_that_is_not_there_is_told_before_the_hub(capsys, tmp_path, command):
    (tmp_path / "empty").mkdir()
    for source, told in ((tmp_path / "none", "there is no folder"), (tmp_path / "empty", "no config.json in")):
        name, *more = command
        status, _, err = call(capsys, name, source, *([tmp_path / "new"] if name == "convert" else []), *more)
        assert status == 1
        assert "must be a checkpoint's folder or its name on the Hub" in err
        assert told in err


def test_inspect_tells_of_memory_tokens_and_what_is_no_memory(capsys, tmp_path):
    model = tiny_model("GPT2", "Model", small_tokens())
    state = model(**tiny_segments("GPT2", steps=1)[0]).memory
    hf_memoria.save_memory(state, tmp_path / "memory.safetensors", model.config)
    status, out, _ = call(capsys, "inspect", tmp_path / "memory.safetensors")
    assert status == 0
    assert "kind='token'" in out
    model.save_pretrained(tmp_path / "model")
    status, _, err = call(capsys, "inspect", tmp_path / "model" / "model.safetensors")
    assert status == 1
    known = [repr(system.file_format) for system in SYSTEMS.values()]
    assert f"must be {' or '.join(known)}; got 'pt'" in err
    assert known[:2] == ["'hf_memoria.engram_state'", "'hf_memoria.token_state'"]


def test_inspect_tells_what_a_file_holds(capsys, tmp_path):
    model, memory = tiny_model("GPT2", "Model", small_memory()), None
    for inputs in tiny_segments("GPT2", steps=6):
        memory = model(**inputs, memory=memory).memory
    path = tmp_path / "memory.safetensors"
    hf_memoria.save_memory(memory, path, model.config)
    status, out, _ = call(capsys, "inspect", path, "--json")
    (summary,) = json.loads(out).values()
    assert status == 0
    assert summary["made_with"]["model_type"] == "memoria-gpt2"
    for row, told in enumerate(summary["rows"]):
        alive = memory.valid[row]
        assert told["segments"] == 6
        assert told["short_term"] == int(memory.num_short_term[row]) > 0
        assert told["long_term"] == int(memory.num_long_term[row]) > 0
        assert told["lifespan"]["most"] == float(memory.lifespan[row][alive].max())
        assert told["age"]["least"] == float(memory.age[row][alive].min())
        assert told["fired"]["least"] <= told["fired"]["median"] <= told["fired"]["most"]
    status, table, _ = call(capsys, "inspect", tmp_path)
    assert status == 0
    assert "2 rows, hidden size 32" in table
    assert "num_memories=3" in table


def test_inspect_tells_of_an_empty_memory_and_an_empty_folder(capsys, tmp_path):
    assert call(capsys, "inspect", tmp_path)[0] == 1
    hf_memoria.save_memory(hf_memoria.EngramState.empty(1, 4), tmp_path / "memory.safetensors")
    status, out, _ = call(capsys, "inspect", tmp_path)
    assert status == 0
    assert "not said" in out


def test_convert_gives_a_plain_checkpoint_a_memory(capsys, checkpoint, tmp_path):
    GPT2LMHeadModel(stock_config("GPT2")).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "plain")
    words = ("convert", tmp_path / "plain", tmp_path / "new", "--memory", "gate=tanh", "segment_length=8")
    status, out, _ = call(capsys, *words)
    assert status == 0
    assert "MemoriaGPT2ForCausalLM" in out
    assert "tokenizer" in out
    model = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path / "new")
    assert (model.config.memory.gate, model.config.memory.segment_length) == ("tanh", 8)
    plain = GPT2LMHeadModel.from_pretrained(tmp_path / "plain")
    input_ids = torch.arange(6).unsqueeze(0)
    assert torch.equal(model(input_ids).logits, plain(input_ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "new").tokenize("ab") == ["a", "b"]
    status, _, err = call(capsys, *words)
    assert status == 1
    assert "must be empty" in err


def test_convert_gives_memory_tokens_too(capsys, tmp_path):
    GPT2LMHeadModel(stock_config("GPT2")).save_pretrained(tmp_path / "plain")
    words = ("convert", tmp_path / "plain", tmp_path / "new", "--memory", "kind=token", "num_tokens=4")
    assert call(capsys, *words)[0] == 0
    model = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path / "new")
    assert model.config.memory.num_tokens == 4


def test_convert_takes_families_without_an_entry(capsys, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.MistralConfig(vocab_size=61, num_key_value_heads=2, **sizes)
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path / "plain")
    status, out, err = call(capsys, "convert", tmp_path / "plain", tmp_path / "new", "--memory", "segment_length=8")
    assert status == 0, err
    assert "MemoriaMistralForCausalLM" in out
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new").config.memory.segment_length == 8


def test_convert_knows_memoria_pytorchs_checkpoints(capsys, tmp_path):
    golden = ROOT.parent / "shared" / "golden" / "gpt2_with_memoria"
    if not golden.is_dir():
        pytest.skip("needs the checkpoints in ../shared/golden")
    status, out, err = call(capsys, "convert", golden, tmp_path / "new")
    assert status == 0, err
    assert "MemoriaGPT2" in out
    assert call(capsys, "convert", golden, tmp_path / "other", "--memory")[0] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--memory or --attention must be given"),
        (["--memory", "gate"], "field=value"),
        (["--memory", "gates=tanh"], "gates"),
        (["--attention", "kind=nothing"], "attention.kind"),
    ],
)
def test_convert_says_what_is_wrong(capsys, tmp_path, words, told):
    GPT2LMHeadModel(stock_config("GPT2")).save_pretrained(tmp_path / "plain")
    status, _, err = call(capsys, "convert", tmp_path / "plain", tmp_path / "new", *words)
    assert status == 1
    assert told in err
    assert not (tmp_path / "new").exists()
