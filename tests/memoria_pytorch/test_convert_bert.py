"""Checkpoints of memoria-pytorch's BERT and RoBERTa: converted, they compute what they computed there.

BERT is held against recorded outputs of the reference's own model where they are at hand, both against a second
implementation, written here in plain functions over the reference's weight names.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import assert_same_memory
from torch.nn import functional as F

import hf_memoria
from hf_memoria import convert_reference_checkpoint
from hf_memoria.memories.engram.store import EngramKind, naive

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "memoria_bert"
HIDDEN, HEADS, LAYERS, CUE, INNER = 16, 4, 4, 1, 24
CONFIG = {
    "vocab_size": 31,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "max_position_embeddings": 14,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "memory_layer_index": CUE,
    "memoria_num_memories": 3,
    "memoria_stm_capacity": 6,
    "memoria_num_reminded_stm": 4,
    "memoria_num_reminded_ltm": 3,
    "memoria_ltm_search_depth": 2,
    "memoria_initial_lifespan": 4,
    "memoria_lifespan_extend_scale": 1.5,
    "memoria_reset_period": 500,
    "memoria_device": None,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
PADDING = {"bert": 0, "roberta": 1}
families = pytest.mark.parametrize("family", PADDING)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded outputs of memoria-pytorch's models are not at hand")
def test_a_converted_checkpoint_computes_what_was_recorded():
    model, memory = convert_reference_checkpoint(GOLDEN), None
    expected = load_file(GOLDEN / "expected.safetensors")
    for t, input_ids in enumerate(expected["input_ids"]):
        with torch.no_grad():
            output = model(input_ids, memory=memory)
        memory = output.memory
        torch.testing.assert_close(output.logits, expected["logits"][t], atol=1e-6, rtol=0)
        valid = memory.valid[0]
        torch.testing.assert_close(memory.lifespan[0][valid], expected[f"lifespan_{t}"], atol=1e-5, rtol=0)
        assert memory.kind[0][valid].tolist() == expected[f"type_{t}"].tolist()
        assert torch.equal(memory.cofire_counts[0][valid][:, valid], expected[f"counts_{t}"])
    assert t == 11
    assert int(memory.next_id) > int(memory.valid.sum())


def reference_weights(family):
    """Random weights under the reference's names, none zero."""
    shapes = {
        "embeddings.word_embeddings.weight": (31, HIDDEN),
        "embeddings.position_embeddings.weight": (14, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
        "encoder.abstractor.query_embeddings": (1, 3, HIDDEN),
    }
    linears = {
        "encoder.abstractor.key_transform": (HIDDEN, HIDDEN),
        "encoder.abstractor.value_transform": (HIDDEN, HIDDEN),
        "encoder.abstractor.feedforward": (INNER, HIDDEN),
        "encoder.abstractor.output": (HIDDEN, INNER),
    }
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        linears |= {f"{layer}.intermediate.dense": (INNER, HIDDEN), f"{layer}.output.dense": (HIDDEN, INNER)}
        norms = [f"{layer}.output"]
        for attention in ("attention", "memory_attention") if i > CUE else ("attention",):
            parts = ("self.query", "self.key", "self.value", "output.dense")
            linears |= {f"{layer}.{attention}.{part}": (HIDDEN, HIDDEN) for part in parts}
            norms.append(f"{layer}.{attention}.output")
        shapes |= {f"{norm}.LayerNorm.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}
    if family == "bert":
        linears["pooler.dense"] = (HIDDEN, HIDDEN)
    shapes = {f"{family}.{name}": shape for name, shape in shapes.items()}
    linears = {f"{family}.{name}": shape for name, shape in linears.items()}
    heads = {"classifier": (3, HIDDEN)}
    if family == "roberta":
        heads = {"classifier.dense": (HIDDEN, HIDDEN), "classifier.out_proj": (3, HIDDEN)}
    for name, size in (linears | heads).items():
        shapes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.3 * torch.randn(size, generator=generator) for name, size in shapes.items()}
    return {name: value + name.endswith("LayerNorm.weight") for name, value in weights.items()}


def write_checkpoint(folder, family, weights, **config):
    folder.mkdir(exist_ok=True)
    written = {"model_type": f"memoria_{family}", "pad_token_id": PADDING[family], **CONFIG, **config}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(weights, folder / "model.safetensors")
    return folder


class Reference:
    """memoria-pytorch's BERT or RoBERTa classifier, one row, over its own weights and the naive memory.

    Where there is nothing to read the read is skipped.
    """

    def __init__(self, weights, family):
        self.weights, self.family = weights, family
        self.row, self.recalled = naive.NaiveRow(), []

    def __getitem__(self, name):
        return self.weights[f"{self.family}.{name}"]

    def norm(self, x, name):
        return F.layer_norm(x, (HIDDEN,), self[f"{name}.LayerNorm.weight"], self[f"{name}.LayerNorm.bias"], 1e-12)

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def attend(self, x, memory, name):
        """LN(x + A(x, memory)), and the mean weight of each vector of memory."""
        query = self.linear(x, f"{name}.self.query")
        key, value = self.linear(memory, f"{name}.self.key"), self.linear(memory, f"{name}.self.value")
        query, key, value = (y.reshape(len(y), HEADS, -1).transpose(0, 1) for y in (query, key, value))
        weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
        mixed = self.linear((weights @ value).transpose(0, 1).flatten(1), f"{name}.output.dense")
        return self.norm(x + mixed, f"{name}.output"), weights.mean(dim=(0, 1))

    def embed(self, input_ids):
        first = PADDING["roberta"] + 1 if self.family == "roberta" else 0
        positions = self["embeddings.position_embeddings.weight"][first : first + len(input_ids)]
        words = self["embeddings.word_embeddings.weight"][input_ids]
        return self.norm(words + positions + self["embeddings.token_type_embeddings.weight"][0], "embeddings")

    def working_memory(self, x):
        queries = self["encoder.abstractor.query_embeddings"][0]
        weights = (queries @ self.linear(x, "encoder.abstractor.key_transform").T).softmax(-1)
        mixed = weights @ self.linear(x, "encoder.abstractor.value_transform")
        return self.linear(self.linear(mixed, "encoder.abstractor.feedforward"), "encoder.abstractor.output")

    def remind(self, working):
        limits = ("num_reminded_stm", "num_reminded_ltm", "ltm_search_depth")
        settings = {name: CONFIG[f"memoria_{name}"] for name in limits}
        ids = naive.remind(self.row, working, **settings, correlation_kind="mean_l2")
        held = {engram.id: engram for engram in self.row.engrams}
        self.recalled.append({held[id_].kind for id_ in ids})
        return ids, torch.stack([held[id_].data for id_ in ids]) if ids else torch.zeros(0, HIDDEN)

    def head(self, x):
        name, first = "classifier", x[0]
        if self.family == "bert":
            pooled = self.linear(first, "pooler.dense").tanh()
            return pooled @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        dense = first @ self.weights[f"{name}.dense.weight"].T + self.weights[f"{name}.dense.bias"]
        return dense.tanh() @ self.weights[f"{name}.out_proj.weight"].T + self.weights[f"{name}.out_proj.bias"]

    def __call__(self, input_ids):
        """Return logits; remember the segment."""
        x, attention, working, ids, reminded = self.embed(input_ids), [], None, [], None
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            x, _ = self.attend(x, x, f"{layer}.attention")
            if i > CUE:
                x, _ = self.attend(x, working, f"{layer}.memory_attention")
                x, weights = self.attend(x, reminded, f"{layer}.memory_attention") if ids else (x, torch.zeros(0))
                attention.append(weights)
            inner = F.gelu(self.linear(x, f"{layer}.intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{layer}.output.dense"), f"{layer}.output")
            if i == CUE:
                working = self.working_memory(x)
                ids, reminded = self.remind(working)
        limits = ("initial_lifespan", "lifespan_extend_scale", "stm_capacity")
        settings = {name: CONFIG[f"memoria_{name}"] for name in limits}
        self.row = naive.memorize(self.row, working, ids, torch.stack(attention).mean(0).tolist(), **settings)
        return self.head(x)


@families
def test_a_converted_checkpoint_computes_what_a_second_implementation_does(tmp_path, family):
    weights = reference_weights(family)
    model = convert_reference_checkpoint(write_checkpoint(tmp_path, family, weights))
    rows, memory = [Reference(weights, family) for _ in range(2)], None
    for input_ids in torch.randint(2, 31, (9, 2, 7), generator=torch.Generator().manual_seed(1)):
        with torch.no_grad():
            output = model(input_ids, memory=memory)
        memory = output.memory
        for i, reference in enumerate(rows):
            torch.testing.assert_close(output.logits[i], reference(input_ids[i]), atol=1e-5, rtol=1e-5)
            assert_same_memory(naive.row_of(memory, i), reference.row)
    for i, reference in enumerate(rows):
        assert any({EngramKind.SHORT_TERM, EngramKind.LONG_TERM} <= kinds for kinds in reference.recalled)
        assert int(memory.next_id[i]) > int(memory.valid[i].sum())


@families
def test_settings_and_labels_come_along(tmp_path, family):
    model = convert_reference_checkpoint(write_checkpoint(tmp_path, family, reference_weights(family)))
    memory = model.config.memory
    assert type(model).__name__ == f"Memoria{family.capitalize()}ForSequenceClassification"
    assert (memory.cue_layer, memory.layers, memory.correlation) == (CUE, None, "mean_l2")
    assert (memory.num_memories, memory.stm_capacity, memory.initial_lifespan) == (3, 6, 4)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


@families
def test_constants_of_old_versions_are_left_out(tmp_path, family):
    weights = reference_weights(family)
    constants = {"position_ids": torch.arange(14)[None], "token_type_ids": torch.zeros(1, 14, dtype=torch.long)}
    old = weights | {f"{family}.embeddings.{name}": value for name, value in constants.items()}
    assert convert_reference_checkpoint(write_checkpoint(tmp_path, family, old)).config.memory is not None


@families
def test_a_base_model_converts_to_a_base_model(tmp_path, family):
    weights = reference_weights(family)
    bare = {n.removeprefix(f"{family}."): w for n, w in weights.items() if not n.startswith("classifier")}
    bare |= {"pooler.dense.weight": torch.ones(HIDDEN, HIDDEN), "pooler.dense.bias": torch.ones(HIDDEN)}
    model = convert_reference_checkpoint(write_checkpoint(tmp_path, family, bare))
    assert type(model) is getattr(hf_memoria, f"Memoria{family.capitalize()}Model")


@families
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be 'absolute' in .*; got 'rel",
        ),
        ({"memory_layer_index": 3}, "config.json in .*cue_layer must be below 3, so that a block after it can read"),
        ({"is_decoder": True}, "config.json in .*cue_layer must be None for"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path, family, config, message):
    with pytest.raises(ValueError, match=message):
        convert_reference_checkpoint(write_checkpoint(tmp_path, family, reference_weights(family), **config))
