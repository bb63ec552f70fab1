"""Checkpoints that bring their code, and what their models make of some segments, for `elsewhere.py` to compare.

python tests/hub/exporting.py FOLDER [NAME ...]
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from families import (
    FAMILIES,
    answer,
    small_episodes,
    small_memory,
    small_tokens,
    tiny_model,
    tiny_segments,
    with_targets,
)

import hf_memoria
from hf_memoria import LwpfAttentionConfig, SdmAttentionConfig
from hf_memoria.hub.remote_code import STUB, auto_map

STEPS, LENGTH = 4, 8

ENGRAMS = {family: (family, heads[1], small_memory(), None) for family, heads in FAMILIES.items()}
"""A head of each family with engrams; all other heads are loaded from its checkpoint, too."""

TOKENS = {
    "GPT2-tokens": ("GPT2", "ForCausalLM", small_tokens(), None),
    "GPT2-recurrent": ("GPT2", "ForCausalLM", small_tokens(encoder_layers=0, bptt_segments=1), None),
    "GPT2-episodic": ("GPT2", "ForCausalLM", small_episodes(share_attention=True, association="spread"), None),
    "ViT-episodic": ("ViT", "ForImageClassification", small_episodes(), None),
    "Llama-tokens": ("Llama", "ForSequenceClassification", small_tokens(), None),
    "Bert-tokens": ("Bert", "ForMaskedLM", small_tokens(recall_target="tokens"), None),
    "ViT-tokens": ("ViT", "ForImageClassification", small_tokens(), None),
}
ATTENTIONS = {
    "ViT-lwpf": ("ViT", "ForImageClassification", small_memory(cue_layer=0), LwpfAttentionConfig()),
    "GPT2-pfu": ("GPT2", "ForCausalLM", None, LwpfAttentionConfig("pfu")),
    "Llama-sdm": ("Llama", "ForCausalLM", small_memory(), SdmAttentionConfig(radius=3, learn_beta=True)),
    "Bert-circle": (
        "Bert",
        "ForTokenClassification",
        small_tokens(),
        SdmAttentionConfig(radius=3, weighting="circle"),
    ),
}
"""Family, head, memory and attention of what is exported, by the name of its folder."""

EXPORTS = ENGRAMS | TOKENS | ATTENTIONS


def export(folder, names=tuple(EXPORTS)):
    """Write checkpoints with their code below a folder, each with what its model is to answer."""
    for name in names:
        family, head, memory, attention = EXPORTS[name]
        model = tiny_model(family, head, memory, attention=attention)
        model.save_pretrained(folder / name)
        hf_memoria.export_remote_code(folder / name)
        save_file(expectations(model, family), folder / name / "expected.bin")
        heads = {auto: found.rpartition(".")[2] for auto, found in auto_map(type(model.config)).items()}
        heads.pop("AutoConfig")
        assert json.loads((folder / name / "config.json").read_text())["auto_map"]["AutoConfig"].startswith(STUB)
        main = next(auto for auto, found in heads.items() if found == type(model).__name__)
        told = {"main": main, "heads": list(heads) if name in ENGRAMS else [main]}
        (folder / name / "expected.json").write_text(json.dumps(told))


def expectations(model, family):
    """Return inputs, answers, what is remembered at last, weights, a loss of training, and what is generated."""
    expected, memory = {}, None
    with torch.no_grad():
        for step, inputs in enumerate(tiny_segments(family, steps=STEPS, length=LENGTH)):
            expected |= {f"input/{step}/{name}": value for name, value in inputs.items()}
            output = model(**inputs, memory=memory)
            memory = output.get("memory")
            expected[f"answer/{step}"] = answer(output)
    if memory is not None:
        # Before the next step, which may write behind what this state holds.
        expected |= {f"memory/{name}": value.clone() for name, value in memory.tensors().items()}
    head = type(model).__name__.removeprefix(f"Memoria{family}")
    targets = with_targets(family, head, inputs)
    expected |= {f"training/{name}": value for name, value in targets.items()}
    expected["loss"] = model.train()(**targets, memory=memory).loss.detach()
    model.eval()
    expected |= {f"weight/{name}": weight for name, weight in model.base_model.state_dict().items()}
    if type(model).__name__.endswith("CausalLM"):
        # Past the window where there is a memory, and to its end where there is none.
        new = 30 if memory is not None else model.config.n_positions - LENGTH
        expected["generated"] = model.generate(inputs["input_ids"], max_new_tokens=new, do_sample=False)
    return {name: value.clone().contiguous() for name, value in expected.items()}


if __name__ == "__main__":
    export(Path(sys.argv[1]), sys.argv[2:] or tuple(EXPORTS))
