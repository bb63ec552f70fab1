"""Classes that nobody declared, of a family that is declared: they take its entry, and leave its classes alone."""

import pytest
import torch
import transformers
from families import answer, small_episodes, stock_class, stock_config, tiny_segments
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPT2DoubleHeadsModel

import hf_memoria
from hf_memoria import wrap
from hf_memoria.compatibility import checks
from hf_memoria.models.families import auto_class_of


class OwnModelForCausalLM(transformers.LlamaForCausalLM):
    """A user's own class of a family that is declared."""


CASES = {
    "own": ("Llama", OwnModelForCausalLM, AutoModelForCausalLM),
    "stock": ("GPT2", GPT2DoubleHeadsModel, AutoModel),
}


@pytest.mark.parametrize("case", CASES)
def test_the_declared_classes_stay_as_they_are(case, tmp_path):
    family, own, auto = CASES[case]
    config = stock_config(family, pad_token_id=None)
    wrap(stock_class(family, "ForCausalLM")(config), memory=small_episodes()).save_pretrained(tmp_path / "declared")
    before = wrap(own(config).eval(), memory=small_episodes())
    declared = getattr(hf_memoria, f"Memoria{family}ForCausalLM")
    assert type(wrap(stock_class(family, "ForCausalLM")(config), memory=small_episodes())) is declared
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "declared")) is declared
    assert type(AutoConfig.from_pretrained(tmp_path / "declared")) is getattr(hf_memoria, f"Memoria{family}Config")
    assert type(before.config) is declared.config_class
    assert isinstance(before, own)
    assert auto_class_of(type(before)) is auto
    for check in (checks.check_blocks, checks.check_attention_modules):
        check()  # of all classes that are known by now
    before.save_pretrained(tmp_path / "own")
    loaded = auto.from_pretrained(tmp_path / "own")
    assert type(loaded) is type(before)
    first, second = tiny_segments(family, steps=2)
    with torch.no_grad():
        memory = before(**first).memory
        assert torch.equal(answer(loaded(**second, memory=memory)), answer(before(**second, memory=memory)))
        assert not torch.allclose(answer(before(**second)), answer(before(**second, memory=memory)))
