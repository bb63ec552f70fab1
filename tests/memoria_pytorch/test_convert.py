"""Checkpoints of memoria-pytorch's GPT-2: converted, they compute what they computed there.

Held against recorded outputs of the reference's own model where they are at hand, and against a second
implementation of it, written here in plain functions over its own weight names.
"""

import json
import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from hf_memoria import MemoriaGPT2ForCausalLM, MemoriaGPT2Model, convert_reference_checkpoint
from hf_memoria.memories.engram.store import EngramKind, naive

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "gpt2_with_memoria"
HIDDEN = 16
HEADS = 4
LAYERS = 2
CONFIG = {
    "model_type": "gpt2_with_memoria",
    "architectures": ["GPT2WithMemoriaLMHeadModel"],
    "transformers_version": "4.25.1",
    "torch_dtype": "float32",
    "vocab_size": 31,
    "n_ctx": 12,
    "n_positions": 12,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "memoria_num_memories": 3,
    "memoria_stm_capacity": 6,
    "memoria_num_reminded_stm": 4,
    "memoria_num_reminded_ltm": 3,
    "memoria_ltm_search_depth": 2,
    "memoria_initial_lifespan": 4,
    "memoria_lifespan_extend_scale": 1.5,
    "memoria_reset_period": 500,
    "memoria_device": None,
}


# The recorded outputs


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded outputs of memoria-pytorch's models are not at hand")
def test_a_converted_checkpoint_computes_what_was_recorded():
    model = convert_reference_checkpoint(GOLDEN)
    expected = load_file(GOLDEN / "expected.safetensors")
    memory, compared = None, 0
    for t, input_ids in enumerate(expected["input_ids"]):
        with torch.no_grad():
            output = model(input_ids, memory=memory)
        memory = output.memory
        torch.testing.assert_close(output.logits, expected["logits"][t], atol=1e-6, rtol=0)
        if f"lifespan_{t}" not in expected:
            assert not memory.valid.any()
            continue
        compared += 1
        valid = memory.valid[0]
        torch.testing.assert_close(memory.lifespan[0][valid], expected[f"lifespan_{t}"], atol=1e-5, rtol=0)
        assert memory.kind[0][valid].tolist() == expected[f"type_{t}"].tolist()
        assert torch.equal(memory.cofire_counts[0][valid][:, valid], expected[f"counts_{t}"])
    assert compared == len(expected["input_ids"]) - 1
    assert int(memory.num_long_term) > 0
    assert int(memory.next_id) > int(memory.valid.sum())


# A checkpoint of our own making


def reference_weights(intermediate=4 * HIDDEN, num_memories=3):
    """Random weights under the reference's names, none zero; a Conv1D's are [in, out], a Linear's [out, in]."""
    shapes = {"wte.weight": (31, HIDDEN), "wpe.weight": (12, HIDDEN), "ln_f.weight": (HIDDEN,), "ln_f.bias": (HIDDEN,)}
    if num_memories:
        shapes["abs.query_embeddings"] = (1, num_memories, HIDDEN)
        for name, size in (
            ("key_transform", (HIDDEN, HIDDEN)),
            ("value_transform", (HIDDEN, HIDDEN)),
            ("feedforward", (intermediate, HIDDEN)),
            ("output", (HIDDEN, intermediate)),
        ):
            shapes |= {f"abs.{name}.weight": size, f"abs.{name}.bias": size[:1]}
    for block in range(LAYERS):
        for name in ("ln_1", "ln_2", "ln_working_memory_attn", "ln_memory_attn"):
            shapes |= {f"h.{block}.{name}.weight": (HIDDEN,), f"h.{block}.{name}.bias": (HIDDEN,)}
        for name, size in (
            ("attn.c_attn", (HIDDEN, 3 * HIDDEN)),
            ("attn.c_proj", (HIDDEN, HIDDEN)),
            ("memory_attention.q_attn", (HIDDEN, HIDDEN)),
            ("memory_attention.c_attn", (HIDDEN, 2 * HIDDEN)),
            ("memory_attention.c_proj", (HIDDEN, HIDDEN)),
            ("mlp.c_fc", (HIDDEN, intermediate)),
            ("mlp.c_proj", (intermediate, HIDDEN)),
        ):
            shapes |= {f"h.{block}.{name}.weight": size, f"h.{block}.{name}.bias": size[1:]}
    generator = torch.Generator().manual_seed(0)
    weights = {f"transformer.{name}": 0.3 * torch.randn(size, generator=generator) for name, size in shapes.items()}
    return {name: value + ("ln_" in name and name.endswith("weight")) for name, value in weights.items()}


def masks_of_old_versions():
    """Causal masks that Transformers 4 wrote among the weights."""
    causal = torch.ones(1, 1, 12, 12).tril().to(torch.uint8)
    names = [f"transformer.h.{block}.{part}" for block in range(LAYERS) for part in ("attn", "memory_attention")]
    return {f"{name}.bias": causal for name in names} | {f"{name}.masked_bias": torch.tensor(-1e4) for name in names}


def write_checkpoint(folder, weights, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(weights, folder / "model.safetensors")
    return folder


class Reference:
    """memoria-pytorch's GPT-2, one row, over its own weights and the naive memory.

    Where there is nothing to read the read is skipped, as the reference does as long as its biases are zero.
    """

    def __init__(self, weights, config):
        self.weights, self.config = weights, config
        self.row, self.cue = naive.NaiveRow(), None
        self.recalled = []

    def __getitem__(self, name):
        return self.weights[f"transformer.{name}"]

    def norm(self, x, name):
        return F.layer_norm(x, (HIDDEN,), self[f"{name}.weight"], self[f"{name}.bias"], 1e-5)

    def conv1d(self, x, name):
        return x @ self[f"{name}.weight"] + self[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def attend(self, query, key, value, causal=False):
        query, key, value = (x.reshape(len(x), HEADS, -1).transpose(0, 1) for x in (query, key, value))
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full(scores.shape[1:], float("-inf")).triu(1)
        weights = scores.softmax(-1)
        return (weights @ value).transpose(0, 1).flatten(1), weights

    def read(self, x, memory, norm, block):
        if len(memory) == 0:
            return x, torch.zeros(0)
        name = f"{block}.memory_attention"
        key, value = self.conv1d(memory, f"{name}.c_attn").split(HIDDEN, dim=-1)
        mixed, weights = self.attend(self.conv1d(self.norm(x, f"{block}.{norm}"), f"{name}.q_attn"), key, value)
        return x + self.conv1d(mixed, f"{name}.c_proj"), weights.mean(dim=(0, 1))

    def working_memory(self):
        if self.cue is None:
            return torch.zeros(0, HIDDEN)
        if self.config["memoria_num_memories"] is None:
            return self.cue
        queries = self["abs.query_embeddings"][0]
        weights = (queries @ self.linear(self.cue, "abs.key_transform").T).softmax(-1)
        mixed = weights @ self.linear(self.cue, "abs.value_transform")
        return self.linear(self.linear(mixed, "abs.feedforward"), "abs.output")

    def block(self, x, block, working, reminded):
        query, key, value = self.conv1d(self.norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(HIDDEN, dim=-1)
        x = x + self.conv1d(self.attend(query, key, value, causal=True)[0], f"{block}.attn.c_proj")
        x, _ = self.read(x, working, "ln_working_memory_attn", block)
        x, weights = self.read(x, reminded, "ln_memory_attn", block)
        inner = F.gelu(self.conv1d(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        return x + self.conv1d(inner, f"{block}.mlp.c_proj"), weights

    def __call__(self, input_ids):
        """Return logits `[T, vocabulary]`; remember the segment."""
        working = self.working_memory()
        limits = ("num_reminded_stm", "num_reminded_ltm", "ltm_search_depth")
        settings = {name: self.config[f"memoria_{name}"] for name in limits}
        ids = naive.remind(self.row, working, **settings, correlation_kind="mean_l2")
        held = {engram.id: engram for engram in self.row.engrams}
        reminded = torch.stack([held[id_].data for id_ in ids]) if ids else torch.zeros(0, HIDDEN)
        self.recalled.append({held[id_].kind for id_ in ids})

        x = self["wte.weight"][input_ids] + self["wpe.weight"][: len(input_ids)]
        attention = []
        for block in range(LAYERS):
            x, weights = self.block(x, f"h.{block}", working, reminded)
            attention.append(weights)
        self.cue = self.norm(x, "ln_f")
        limits = ("initial_lifespan", "lifespan_extend_scale", "stm_capacity")
        settings = {name: self.config[f"memoria_{name}"] for name in limits}
        self.row = naive.memorize(self.row, working, ids, torch.stack(attention).mean(0).tolist(), **settings)
        return self.cue @ self["wte.weight"].T


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({}, {}),
        ({"n_inner": 24}, {"intermediate": 24}),
        ({"memoria_num_memories": None, "memoria_stm_capacity": 15}, {"num_memories": None}),
    ],
    ids=["default", "own inner width", "raw states"],
)
def test_a_converted_checkpoint_computes_what_a_second_implementation_does(tmp_path, config, sizes):
    weights = reference_weights(**sizes)
    model = convert_reference_checkpoint(write_checkpoint(tmp_path, weights, **config))
    rows = [Reference(weights, CONFIG | config) for _ in range(2)]
    segments = torch.randint(0, 31, (9, 2, 7), generator=torch.Generator().manual_seed(1))
    memory = None
    for input_ids in segments:
        with torch.no_grad():
            output = model(input_ids, memory=memory)
        memory = output.memory
        for i, reference in enumerate(rows):
            torch.testing.assert_close(output.logits[i], reference(input_ids[i]), atol=1e-5, rtol=1e-5)
            assert_same_memory(naive.row_of(memory, i), reference.row)
    for i, reference in enumerate(rows):
        assert {EngramKind.SHORT_TERM, EngramKind.LONG_TERM} in reference.recalled
        assert int(memory.next_id[i]) > int(memory.valid[i].sum())


def assert_same_memory(got, expected):
    assert [(e.id, e.kind, e.age) for e in got.engrams] == [(e.id, e.kind, e.age) for e in expected.engrams]
    assert got.cofire == expected.cofire
    for one, other in zip(got.engrams, expected.engrams, strict=True):
        assert one.lifespan == pytest.approx(other.lifespan, abs=1e-4)
        torch.testing.assert_close(one.data, other.data, atol=1e-5, rtol=1e-5)


def test_a_second_implementation_reads_what_it_remembers():
    weights = reference_weights()
    reference = Reference(weights, CONFIG)
    input_ids = torch.arange(7)
    logits = [reference(input_ids) for _ in range(4)]
    assert all(float((one - other).abs().max()) > 0.1 for one, other in pairwise(logits))


# What a converted model is


def logits_of(model, steps=5):
    memory, logits = None, []
    for input_ids in torch.randint(0, 31, (steps, 1, 7), generator=torch.Generator().manual_seed(2)):
        with torch.no_grad():
            output = model(input_ids, memory=memory)
        memory = output.memory
        logits.append(output.logits)
    return torch.cat(logits)


def test_the_settings_of_the_memory_come_along(tmp_path):
    model = convert_reference_checkpoint(str(write_checkpoint(tmp_path, reference_weights())))
    memory = model.config.memory
    assert type(model) is MemoriaGPT2ForCausalLM
    assert not model.training
    assert (memory.num_memories, memory.stm_capacity, memory.num_reminded_stm, memory.num_reminded_ltm) == (3, 6, 4, 3)
    assert (memory.ltm_search_depth, memory.initial_lifespan, memory.lifespan_extend_scale) == (2, 4, 1.5)
    assert memory.correlation == "mean_l2"
    assert model.config.model_type == "memoria-gpt2"
    assert (model.config.vocab_size, model.config.n_positions, model.config.n_embd) == (31, 12, HIDDEN)


def test_a_converted_model_saved_and_loaded_computes_the_same(tmp_path):
    model = convert_reference_checkpoint(write_checkpoint(tmp_path / "theirs", reference_weights()))
    model.save_pretrained(tmp_path / "ours")
    loaded = MemoriaGPT2ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_a_pickled_checkpoint_of_an_old_version_gives_the_same_model(tmp_path):
    weights = reference_weights()
    expected = logits_of(convert_reference_checkpoint(write_checkpoint(tmp_path, weights)))
    (tmp_path / "model.safetensors").unlink()
    tied = {"lm_head.weight": weights["transformer.wte.weight"]}
    torch.save(weights | tied | masks_of_old_versions(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits_of(convert_reference_checkpoint(tmp_path)), expected)


def test_a_pickled_checkpoint_cannot_run_code(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"transformer.wte.weight": Trap(tmp_path / "sprung")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must hold nothing but tensors") as error:
        convert_reference_checkpoint(tmp_path)
    assert isinstance(error.value.__cause__, pickle.UnpicklingError)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_biases_that_are_not_there_are_zero(tmp_path):
    weights = reference_weights()
    zeroed = {name: value * (not name.endswith(".bias")) for name, value in weights.items()}
    stripped = {name: value for name, value in weights.items() if not name.endswith(".bias")}
    expected = logits_of(convert_reference_checkpoint(write_checkpoint(tmp_path / "zeroed", zeroed)))
    model = convert_reference_checkpoint(write_checkpoint(tmp_path / "stripped", stripped))
    assert torch.equal(logits_of(model), expected)
    assert not any(value.any() for name, value in model.named_parameters() if name.endswith(".bias"))


# What is refused


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("config.json", "config.json must be in"),
        ("model.safetensors", "model.safetensors or pytorch_model.bin must be in"),
    ],
)
def test_a_missing_file_is_named(tmp_path, file, told):
    write_checkpoint(tmp_path, reference_weights())
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{told} .*{tmp_path.name}"):
        convert_reference_checkpoint(tmp_path)


@pytest.mark.parametrize("found", ["gpt2", "bert", None])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, found):
    write_checkpoint(tmp_path, reference_weights(), model_type=found)
    with pytest.raises(ValueError, match=f"model_type must be 'gpt2_with_memoria' or .*; got {found!r}"):
        convert_reference_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["transformer.wte.weight", "transformer.h.1.memory_attention.q_attn.weight", "transformer.abs.query_embeddings"],
)
def test_a_missing_weight_is_named(tmp_path, name):
    weights = reference_weights()
    del weights[name]
    ours = {
        "transformer.h.1.memory_attention.q_attn.weight": "transformer.h.1.memory.lookup.query.weight",
        "transformer.abs.query_embeddings": "transformer.abstractor.queries.weight",
    }
    with pytest.raises(ValueError) as error:
        convert_reference_checkpoint(write_checkpoint(tmp_path, weights))
    assert f"missing ['{ours.get(name, name)}'], unknown []" in str(error.value)


def test_a_weight_that_is_not_known_is_named(tmp_path):
    weights = reference_weights() | {"transformer.h.0.something.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['transformer.h.0.something.weight'\]"):
        convert_reference_checkpoint(write_checkpoint(tmp_path, weights))


@pytest.mark.parametrize("field", ["memoria_num_memories", "memoria_initial_lifespan"])
def test_a_missing_field_of_the_memory_is_named(tmp_path, field):
    write_checkpoint(tmp_path, reference_weights())
    config = {name: value for name, value in CONFIG.items() if name != field}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json in .*{tmp_path.name} .*missing \['{field}'\]"):
        convert_reference_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("memoria_stm_capacity", -3), ("n_embd", "16"), ("memoria_num_memories", 1.5)]
)
def test_a_field_that_does_not_fit_is_named(tmp_path, field, value):
    write_checkpoint(tmp_path, reference_weights(), **{field: value})
    with pytest.raises(ValueError, match=rf"config.json in .*{tmp_path.name} .*{field.removeprefix('memoria_')}"):
        convert_reference_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_a_broken_config_is_named(tmp_path, text):
    write_checkpoint(tmp_path, reference_weights())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path.name}/config.json must"):
        convert_reference_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_broken_weights_are_named(tmp_path, file):
    write_checkpoint(tmp_path, reference_weights())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{tmp_path.name}/{file} must hold nothing but tensors and be whole"):
        convert_reference_checkpoint(tmp_path)


def test_a_weight_of_another_shape_is_named(tmp_path):
    weights = reference_weights() | {"transformer.ln_f.weight": torch.ones(5)}
    with pytest.raises(ValueError, match=r"transformer.ln_f.weight in .* must have shape \[16\]; got \[5\]"):
        convert_reference_checkpoint(write_checkpoint(tmp_path, weights))


def test_a_tied_weight_that_differs_is_refused_and_one_that_is_untied_is_kept(tmp_path):
    weights = reference_weights()
    weights["lm_head.weight"] = weights["transformer.wte.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head.weight must equal transformer.wte.weight, to which it is tied"):
        convert_reference_checkpoint(write_checkpoint(tmp_path, weights))
    untied = convert_reference_checkpoint(write_checkpoint(tmp_path, weights, tie_word_embeddings=False))
    assert torch.equal(untied.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(untied.transformer.wte.weight, weights["transformer.wte.weight"])


def test_only_what_the_model_computes_comes_from_an_old_config(tmp_path):
    written = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}, "output_hidden_states": True, "return_dict": False}
    model = convert_reference_checkpoint(write_checkpoint(tmp_path, reference_weights(), **written))
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.architectures is None
    assert model.config.transformers_version != CONFIG["transformers_version"]
    assert model.config.return_dict
    assert not model.config.output_hidden_states


def test_a_base_model_converts_to_a_base_model(tmp_path):
    weights = reference_weights()
    expected = convert_reference_checkpoint(write_checkpoint(tmp_path / "head", weights)).transformer
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    model = convert_reference_checkpoint(write_checkpoint(tmp_path / "base", bare))
    assert type(model) is MemoriaGPT2Model
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
