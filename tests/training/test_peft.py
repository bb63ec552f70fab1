"""Adapters on the backbone, the memory in full: what is trained, saved, loaded, merged and resumed."""

import itertools
import os
import warnings
from functools import partial
from pathlib import Path

import new_process
import pytest
import torch
from families import CASES, answer, memoria_class, read_all, small_memory, tiny_model, tiny_segments
from pages import ROOT, block_with
from peft import AutoPeftModelForCausalLM, LNTuningConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tiny_stock import undeclared
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, TrainerCallback

from hf_memoria import (
    EngramMemoryConfig,
    MemoriaAutoModelForCausalLM,
    MemoriaGPT2ForCausalLM,
    memory_modules,
    save_adapter,
)
from hf_memoria.models.adapter_loading import LOADS_IN_FULL

pytestmark = pytest.mark.slow

LORA = {"target_modules": "all-linear", "r": 4, "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(new_model, tmp_path_factory):
    """A checkpoint with memory, as the backbone of adapters."""
    folder = str(tmp_path_factory.mktemp("base"))
    new_model(gate="tanh").save_pretrained(folder)
    return folder


def with_adapter(base, **settings):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        # PEFT says that GPT-2's layers are transposed, and does what is right.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        return get_peft_model(model, LoraConfig(**{**LORA, "modules_to_save": memory_modules(model), **settings}))


class Save(TrainerCallback):
    """Save in the middle of documents."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == 6


@pytest.fixture(scope="module")
def run(base, segments, evaluation_segments, new_trainer):
    """Train LoRA and the memory; return the trainer and the trainable weights before."""
    model = with_adapter(base)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = new_trainer(model, segments, evaluation_segments, callbacks=[Save()], max_grad_norm=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*parameters of the memory are frozen")
        trainer.train()
    return trainer, before


def logits_of(model, segments):
    """Read four steps of the first lanes; return the logits of the last."""
    rows = segments.with_format("torch")
    memory = None
    with torch.no_grad():
        for step in range(4):
            batch = rows[4 * step : 4 * step + 4]
            output = model.eval()(
                input_ids=batch["input_ids"].long(), reset_memory=batch["reset_memory"], memory=memory
            )
            memory = output.memory
    return output.logits


def test_the_memory_is_trained_in_full_and_gets_no_adapter(base):
    model = with_adapter(base)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    adapters = [name for name in names if "lora_" in name]
    assert adapters
    assert not [name for name in adapters if "memory" in name or "abstractor" in name]
    plain = AutoModelForCausalLM.from_pretrained(base)
    own = [name for name, _ in plain.named_parameters() if "memory" in name or "abstractor" in name]
    assert len(names) - len(adapters) == len(own)
    assert any(name.endswith("gate") for name in names)


@pytest.mark.matrix("PEFT", family="GPT2", head="ForCausalLM")
def test_training_changes_adapters_and_memory_and_leaves_the_backbone(run):
    trainer, before = run
    after = dict(trainer.model.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name, value in after.items() if value.requires_grad}
    assert any("modules_to_save.default.queries" in name for name in changed)


def test_every_lane_carries_its_memory_under_the_adapter(base, run, segments, new_trainer, record, losses):
    model = with_adapter(base)
    calls = record(model.get_base_model())
    trainer = new_trainer(model, segments, max_grad_norm=0)
    trainer.train()
    assert len(calls) == 17
    assert all(after.before is before.after for before, after in itertools.pairwise(calls))
    assert losses(trainer) == losses(run[0])
    assert calls[-1].after.valid.any()


@pytest.mark.matrix("PEFT", family="GPT2", head="ForCausalLM")
@pytest.mark.parametrize("way", ["AutoPeftModel", "PeftModel", "AutoModel", "merged", "merged and saved"])
def test_an_adapter_comes_back_with_its_memory(way, run, base, segments, tmp_path):
    trained = run[0].model
    expected = logits_of(trained, segments)
    trained.save_pretrained(tmp_path / "adapter")
    if way == "PeftModel":
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    elif way == "AutoModel":
        if not LOADS_IN_FULL:
            pytest.skip("Transformers 5.17 does not load modules_to_save by itself, which is refused")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    if way.startswith("merged"):
        model = model.merge_and_unload()
        assert type(model) is MemoriaGPT2ForCausalLM
        assert not [name for name, _ in model.named_parameters() if "lora" in name or "modules_to_save" in name]
    if way == "merged and saved":
        model.save_pretrained(tmp_path / "merged")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(model, segments), expected, atol=1e-5)
    untrained = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(logits_of(untrained, segments), expected, atol=1e-2)


def test_where_transformers_leaves_the_memory_as_it_began_it_says_so(run, monkeypatch, tmp_path):
    run[0].model.save_pretrained(tmp_path)
    monkeypatch.setattr("hf_memoria.models.adapter_loading.LOADS_IN_FULL", False)
    with pytest.raises(ValueError, match=r"transformers must be 5.18 .* modules_to_save .*PeftModel"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


NORMS = {
    "GPT2": ("ForCausalLM", r".*h\.\d+\.ln_[12]"),
    "Llama": ("ForCausalLM", r".*layers\.\d+\.input_layernorm"),
    "Bert": ("ForMaskedLM", r".*attention\.output\.LayerNorm"),
}


@pytest.mark.parametrize("family", NORMS)
def test_norms_that_an_adapter_trains_copies_of_read_all_the_same(family):
    head, norms = NORMS[family]
    model = tiny_model(family, head, small_memory()).eval()
    one, other = tiny_segments(family, steps=2)
    # With gradient, as the adapted one: some processors have other kernels without.
    expected = model(**other, memory=model(**one).memory).logits.detach()
    adapted = get_peft_model(model, LNTuningConfig(target_modules=norms, modules_to_save=memory_modules(model))).eval()
    output = adapted(**other, memory=adapted(**one).memory)
    assert torch.equal(output.logits, expected)
    output.logits.sum().backward()
    copies = {name: part for name, part in adapted.named_parameters() if "ln_tuning_layers" in name}
    assert copies
    assert all(part.grad is not None for part in copies.values())
    # The copy of a norm is one of a norm, and of nothing that it belongs to.
    assert sum(isinstance(part, type(model.base_model)) for part in adapted.modules()) == 1
    with torch.no_grad():
        for part in copies.values():
            part.mul_(1.5)
        changed = adapted(**other, memory=adapted(**one).memory).logits
        merged = adapted.merge_and_unload()
        assert torch.equal(merged(**other, memory=merged(**one).memory).logits, changed)
    assert not torch.allclose(changed, expected, atol=1e-3)


@pytest.mark.matrix("PEFT", family="GPT2", head="ForCausalLM")
def test_resuming_an_adapter_is_exact(run, base, segments, evaluation_segments, new_trainer, losses):
    trainer, _ = run
    resumed = new_trainer(with_adapter(base), segments, evaluation_segments, max_grad_norm=0)
    resumed.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-6"))
    assert losses(resumed) == losses(trainer)
    ours, theirs = resumed.model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("target", ["all-linear", ["c_attn"]])
def test_a_memory_that_an_adapter_freezes_is_told_of_with_the_remedy(target, base, segments, new_trainer):
    trainer = new_trainer(with_adapter(base, target_modules=target, modules_to_save=None), segments, max_steps=1)
    with pytest.warns(UserWarning, match=r"are frozen, .* modules_to_save=hf_memoria\.memory_modules\(model\)"):
        trainer.train()


def test_a_memory_frozen_by_hand_is_told_of(new_model, segments, new_trainer):
    model = new_model()
    model.transformer.abstractor.requires_grad_(False)
    with pytest.warns(UserWarning, match="9 parameters of the memory are frozen, transformer.abstractor.queries"):
        new_trainer(model, segments, max_steps=1).train()


def test_virtual_tokens_are_refused(base, segments, new_trainer):
    model = AutoModelForCausalLM.from_pretrained(base)
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(
        ValueError, match=r"adapters must leave the tokens of a segment as they are .* got PROMPT_TUNING"
    ):
        new_trainer(prompted, segments, max_steps=1).train()


def test_an_adapter_of_a_checkpoint_without_memory_is_told_of(base, tmp_path):
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "plain")
    model = MemoriaGPT2ForCausalLM.from_pretrained(tmp_path / "plain", memory=EngramMemoryConfig(num_memories=3))
    with pytest.warns(
        UserWarning, match="AutoPeftModel would load it without memory. Save it with hf_memoria.save_adapter"
    ):
        assert memory_modules(model) == ["abstractor", "memory"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert memory_modules(AutoModelForCausalLM.from_pretrained(base)) == ["abstractor", "memory"]


def test_the_cue_itself_needs_no_abstractor(new_model):
    assert memory_modules(new_model(num_memories=None)) == ["memory"]


def test_a_model_without_memory_has_none_to_train(new_model):
    with pytest.raises(ValueError, match=r"config\.memory must be settings of a memory; got None"):
        memory_modules(new_model(without_memory=True))
    with pytest.raises(TypeError, match="model must be a model of hf_memoria; got Linear"):
        memory_modules(torch.nn.Linear(2, 2))


ELSEWHERE = """
import sys
import torch
import hf_memoria
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

segment = torch.arange(1, 13)[None]
for folder in ("lora", "both", "memory"):
    auto = AutoModelForCausalLM if folder == "memory" else AutoPeftModelForCausalLM
    model = auto.from_pretrained(f"{sys.argv[1]}/{folder}").eval()
    with torch.no_grad():
        logits = model(segment, memory=model(segment).memory).logits
    print(type(model).__name__, torch.equal(logits, torch.load(f"{sys.argv[1]}/{folder}.pt")))
"""


def test_the_documented_line_makes_what_a_new_process_loads(tmp_path):
    undeclared("Olmo2ForCausalLM").save_pretrained(tmp_path / "stock")
    memory = EngramMemoryConfig(num_memories=3)
    model = MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "stock", memory=memory)
    model.save_pretrained(tmp_path / "base")
    names = {"get_peft_model": get_peft_model, "LoraConfig": LoraConfig, "memory_modules": memory_modules}
    segment = torch.arange(1, 13)[None]

    def keep(name, model, save):
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if parameter.requires_grad else None
        save(tmp_path / name)
        with torch.no_grad():
            torch.save(model.eval()(segment, memory=model(segment).memory).logits, tmp_path / f"{name}.pt")

    line = block_with("get_peft_model(")
    for name, given in (("lora", AutoModelForCausalLM.from_pretrained(tmp_path / "base")), ("both", model)):
        names["model"] = given
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*which has no memory")
            exec(compile(line, "adapters.md", "exec"), names)
        adapted = names["model"]
        keep(name, adapted, adapted.save_pretrained if name == "lora" else partial(save_adapter, adapted))
    alone = MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "stock", memory=memory).requires_grad_(False)
    for name, parameter in alone.named_parameters():
        parameter.requires_grad_("memory" in name or "abstractor" in name)
    keep("memory", alone, partial(save_adapter, alone))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = new_process.run(["-c", ELSEWHERE, tmp_path], env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n") == [
        "PeftModelForCausalLM True",
        "PeftModelForCausalLM True",
        "MemoriaOlmo2ForCausalLM True",
        "",
    ]


@pytest.mark.matrix("PEFT")
@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_trains_its_memory_in_full_and_comes_back(family, head, tmp_path):
    tiny_model(family, head, {"gate": "tanh"}).save_pretrained(tmp_path / "base")
    model = memoria_class(family, head).from_pretrained(tmp_path / "base")
    lora = LoraConfig(target_modules="all-linear", modules_to_save=memory_modules(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        adapted = get_peft_model(model, lora)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert not [name for name in trained if "lora_" in name and ("memory" in name or "abstractor" in name)]
    assert len([name for name in trained if "modules_to_save" in name]) >= 9
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if name in trained:
            torch.nn.init.normal_(parameter, std=0.1)
    segments = tiny_segments(family)
    expected = [answer(output) for output in read_all(adapted.eval(), segments)]
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        memoria_class(family, head).from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    for loaded in (again.eval(), again.merge_and_unload().eval()):
        for output, known in zip(read_all(loaded, segments), expected, strict=True):
            assert torch.allclose(answer(output), known, atol=1e-4)
    assert not torch.allclose(
        answer(read_all(tiny_model(family, head, {"gate": "tanh"}), segments)[-1]), expected[-1], atol=1e-2
    )
