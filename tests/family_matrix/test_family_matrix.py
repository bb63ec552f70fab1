"""Families without an entry: some in every run of the tests, all of them with HF_MEMORIA_FAMILIES=1."""

import json
import os
import re
from pathlib import Path

import new_process
import pytest
from cells import CHOICES, NOT_FOR_IT, NOT_TRIED, OPEN, PASSED, STEPS, try_family
from families_report import is_without, passed, reason_of, table, try_type
from tiny_models import model_types, tiny_stock_model
from versions import NOT_SEEN

pytestmark = pytest.mark.slow

MEMORIES = ("engram", "token", "episodic")
SHARED, KEYS = "shared attention", "keys and values"
NO_INTERFACE = "whose attention does not go through Transformers' AttentionInterface"

FEW = {
    ("decoders", "qwen3"): tuple(CHOICES),
    ("decoders", "gemma2"): MEMORIES,
    ("decoders", "glm4"): ("engram",),
    ("decoders", "granite"): ("engram",),
    ("decoders", "olmo2"): ("episodic",),
    ("decoders", "gpt_neox"): ("engram", SHARED, KEYS),
    ("decoders", "deepseek_v3"): (SHARED,),
    ("decoders", "gemma3"): tuple(CHOICES),
    ("decoders", "mllama"): ("engram",),
    ("decoders", "moss_transcribe_diarize"): ("token",),
    ("decoders", "mpt"): ("episodic",),
    ("decoders", "whisper"): ("token", SHARED, "LwPF"),
    ("decoders", "gptj"): ("engram",),
    ("decoders", "opt"): ("episodic",),
    ("decoders", "stablelm"): ("token", "LwPF", "SDM"),
    ("decoders", "bart"): ("engram",),
    ("decoders", "glm_moe_dsa"): ("engram",),
    ("decoders", "qwen3_next"): ("episodic",),
    ("encoders", "electra"): ("token",),
    ("encoders", "albert"): ("episodic",),
    ("encoders", "distilbert"): ("engram",),
    ("encoders", "deberta-v2"): ("engram",),
    ("encoders", "neomme"): ("LwPF",),
    ("vision", "deit"): ("LwPF",),
    ("vision", "beit"): ("token",),
    ("vision", "clip"): ("engram", "LwPF"),
    ("vision", "siglip"): ("episodic",),
    ("vision", "dinov2"): ("engram", SHARED),
    ("vision", "dinov3_vit"): ("engram",),
    ("vision", "siglip_vision_model"): ("episodic",),
    ("vision", "hiera"): ("episodic",),
    ("vision", "sam_vision_model"): ("episodic",),
    ("vision", "segformer"): ("engram",),
    ("vision", "swinv2"): ("engram",),
}
"""What is tried in every run, by group and model type."""

NEWER = {("decoders", "moss_transcribe_diarize")}
"""What the oldest version of Transformers that is promised does not have."""

REFUSED = {
    ("decoders", "bloom", "LwPF"): NO_INTERFACE,
    ("decoders", "bloom", SHARED): "share_attention must be False for MemoriaBloomForCausalLM",
    ("decoders", "gemma2", SHARED): r"share_attention must be False for Gemma2Attention, which attends with",
    ("decoders", "deepseek_v3", KEYS): "it is not known how this attention turns keys by their places",
    ("decoders", "gemma4_text", KEYS): "keys and values of a position must have 16 numbers each",
    ("decoders", "hunyuan_v1_dense", KEYS): "it is not known how this attention turns keys by their places",
    ("decoders", "bigbird_pegasus", "LwPF"): "shows positions those after them",
    ("encoders", "mra", "token"): NOT_SEEN,
    ("encoders", "esm", "token"): "a forward on random input fails",
    ("vision", "imagegpt", "token"): NOT_SEEN,
    ("vision", "data2vec-vision", "LwPF"): "whose attention is one of a table of its own",
    ("decoders", "gemma2", "SDM"): r"attends with \['softcap'\]",
    ("decoders", "mamba", "engram"): "no list of blocks with a self-attention was found",
    ("encoders", "bart", "engram"): "it is an encoder-decoder",
    ("decoders", "prophetnet", "engram"): "block 0 gets 2 rows and 24 positions where the input has 2 rows and 8",
    ("vision", "mobilevit", "engram"): "block 0 gets 4 rows where the input has 1 rows",
    ("vision", "swiftformer", "engram"): "its block gets maps of features, and no rows of positions",
    ("vision", "regnet", "engram"): "no list of blocks with a self-attention was found",
}
"""What is refused, and what the error says."""

LEAST = {"decoders": 0.9, "encoders": 0.8, "vision": 0.8}
"""Of the model types with a self-attention, the part that takes engrams and episodes, rounded down from 5.23's."""


@pytest.mark.parametrize(("group", "model_type"), FEW, ids=str)
def test_a_family_without_an_entry_takes(group, model_type):
    if (group, model_type) in NEWER and model_type not in model_types()[group]:
        pytest.skip(f"this version of Transformers has no {model_type}")
    chosen = FEW[group, model_type]
    found = try_family(tiny_stock_model(group, model_type), chosen)
    wrong = {
        f"{choice}, {step}": result
        for choice, cells in found.items()
        for step, result in cells.items()
        if result not in (PASSED, OPEN, NOT_FOR_IT)
    }
    assert not wrong
    assert (found[chosen[0]]["generate"] == PASSED) == (group == "decoders")


def test_the_command_tries_a_type_that_other_tests_declare(tmp_path):
    # In a process of its own: to this one another test may have declared an entry for it.
    report = tmp_path / "cells.json"
    script = Path(__file__).with_name("families_report.py")
    done = new_process.run([script, "--only", "modernbert", "--json", report])
    assert done.returncode == 0, done.stderr
    (cells,) = [found["cells"] for found in json.loads(report.read_text())["types"] if found["group"] == "encoders"]
    assert passed(cells["engram"]), cells["engram"]


@pytest.mark.parametrize(("group", "model_type", "choice"), REFUSED, ids=str)
def test_a_family_refuses_with_a_reason(group, model_type, choice):
    found = try_family(tiny_stock_model(group, model_type), (choice,))[choice]
    assert re.search(REFUSED[group, model_type, choice], found["wrap"])


def test_a_family_that_fails_would_be_seen():
    cells = dict.fromkeys(STEPS, PASSED)
    assert passed(cells)
    assert passed(cells | {"generate": NOT_FOR_IT, "start": OPEN})
    failing = cells | {"gradient": "AssertionError: no gradient"}
    assert not passed(failing)
    refused = {"wrap": f"ValueError: memory must be {'long ' * 60}"} | dict.fromkeys(STEPS[1:], NOT_TRIED)
    assert not passed(refused)
    few = dict.fromkeys(CHOICES, cells) | {"token": failing, "SDM": refused, SHARED: cells | {"start": OPEN}}
    few[KEYS] = refused
    results = [{"group": "decoders", "type": name, "cells": few} for name in ("one", "two")]
    text = "\n".join(table([*results, {"group": "decoders", "type": "none", "unbuilt": "ValueError: no"}]))
    assert "token 0 (0%)" in text
    assert "engram 2 (100%)" in text
    for name in ("one", "two"):
        assert f"| {name} | yes | no (1) | yes | yes, open | no (2) | yes | no (2) |" in text
    assert text.count("1. Accepted, and wrong in gradient: AssertionError: no gradient") == 1
    assert f"2. memory must be {'long ' * 60}".strip() in " ".join(text.split())
    assert "1 more were not built" in " ".join(text.split())


def test_reasons_are_the_same_for_the_same_cause():
    told = "NotTakenError: share_attention must be False for {}Attention, which attends with ['softcap']."
    assert reason_of(told.format("Gemma2")) == reason_of(told.format("VaultGemma"))
    found = "NotFoundError: model must be one [...] in {} no such place was found and proved: its stream is several. "
    found += "register_family takes an entry by hand, where there is such a place."
    assert reason_of(found.format("One")) == reason_of(found.format("Other")) == "its stream is several."
    tried = "NotFoundError: memory and attention must be of kinds that {} takes; got 'token', with which a forward on "
    tried += "random input is not changed by what is remembered."
    assert reason_of(tried.format("mra")) == "A forward is not changed by what is remembered."


@pytest.mark.skipif("HF_MEMORIA_FAMILIES" not in os.environ, reason="some minutes; set HF_MEMORIA_FAMILIES=1")
@pytest.mark.parametrize("group", LEAST)
def test_no_fewer_families_take_a_memory_than_did(group):
    results = [try_type(group, name) for name in model_types()[group]]
    print("\n".join(table(results)))
    fit = [found["cells"] for found in results if "cells" in found and not is_without(found)]
    for choice in ("engram", "episodic"):
        assert sum(passed(cells[choice]) for cells in fit) >= LEAST[group] * len(fit), choice
