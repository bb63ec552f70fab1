"""A rate of its own for the memory, no decay for gates and norms, and what a log says of gates."""

import warnings
from pathlib import Path

import pytest
import torch
from families import SMALL, small_memory, tiny_model
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

from hf_memoria import memory_modules, parameter_groups
from hf_memoria.memories.shared.gates import is_gate, mean_openness

RATES = {"lr": 1e-3, "memory_lr": 1e-2, "weight_decay": 0.1}


def with_lora(model):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        return get_peft_model(
            model,
            LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", modules_to_save=memory_modules(model)),
        )


def frozen(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("memory" in name or "abstractor" in name)
    return model


WAYS = {"all": lambda model: model, "frozen backbone": frozen, "LoRA": with_lora}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_every_parameter_that_is_trained_is_in_exactly_one_group(family, kind, way):
    model = WAYS[way](tiny_model(family, "ForCausalLM", {"kind": kind}))
    groups = parameter_groups(model, **RATES)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    trained = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(held) == sorted(trained)
    for group in groups:
        names = [trained[id(parameter)] for parameter in group["params"]]
        memory = group["name"].startswith("memory")
        assert group["lr"] == (1e-2 if memory else 1e-3)
        assert all(("memory" in name or "abstractor" in name) is memory for name in names)
        assert group["weight_decay"] == (0.0 if group["name"].endswith("not decayed") else 0.1)
        matrices = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
        assert all(
            (name in matrices) is (group["weight_decay"] > 0) for name in names if ".norms." in name or "gate" in name
        )
    expected = {"memory", "memory, not decayed"}
    assert {group["name"] for group in groups} >= expected
    if way == "frozen backbone":
        assert {group["name"] for group in groups} == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["engram", "token", "episodic"])
def test_gates_may_have_a_rate_of_their_own(kind, way):
    model = WAYS[way](tiny_model("Llama", "ForCausalLM", {"kind": kind, "gate": "tanh"}))
    gates = [name for name, parameter in model.named_parameters() if parameter.requires_grad and is_gate(name)]
    groups = {group["name"]: group for group in parameter_groups(model, gate_lr=0.5, **RATES)}
    held = {id(parameter) for parameter in groups["gates, not decayed"]["params"]}
    assert held == {id(parameter) for name, parameter in model.named_parameters() if name in gates}
    assert groups["gates, not decayed"]["lr"] == 0.5
    assert groups["gates, not decayed"]["weight_decay"] == 0
    assert {group["lr"] for name, group in groups.items() if name.startswith("memory")} == {1e-2}
    together = parameter_groups(model, **RATES)
    assert {group["name"] for group in together} == set(groups) - {"gates, not decayed"}
    assert sum(len(group["params"]) for group in together) == sum(len(group["params"]) for group in groups.values())


def test_wrong_numbers_and_models_without_memory_or_training_are_refused(new_model):
    with pytest.raises(ValueError, match=r"memory_lr must be at least 0; got -1"):
        parameter_groups(new_model(), lr=0.1, memory_lr=-1)
    with pytest.raises(ValueError, match=r"gate_lr must be at least 0; got -1"):
        parameter_groups(new_model(), lr=0.1, memory_lr=0.1, gate_lr=-1)
    with pytest.raises(TypeError, match="model must be a model of hf_memoria; got Linear"):
        parameter_groups(torch.nn.Linear(2, 2), lr=0.1, memory_lr=0.1)
    with pytest.raises(ValueError, match="parameters that require a gradient; got none"):
        parameter_groups(new_model().requires_grad_(False), lr=0.1, memory_lr=0.1)


class Save(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == 3


def start(new_trainer, model, segments, way):
    """A Trainer, with the groups in either of the two ways that it takes them."""
    groups = parameter_groups(model, **RATES)
    if way == "optimizers":
        given = {"optimizers": (torch.optim.AdamW(groups), None)}
    else:
        given = {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"params": groups})}

    def made(*args, **kwargs):
        return Trainer(*args, **kwargs, **given)

    return new_trainer(model, segments, trainer=made, callbacks=[Save()], max_steps=6, lr_scheduler_type="linear")


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])
def test_trainer_trains_with_them_and_resumes_exactly(way, new_model, segments, new_trainer):
    trainer = start(new_trainer, new_model(gate="tanh"), segments, way)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name: (after[name] - before[name]).abs().max().item() for name in after}
    backbone, memory = moved["transformer.h.0.attn.c_attn.weight"], moved["transformer.abstractor.queries.weight"]
    assert 0 < 3 * backbone < memory
    assert [group["initial_lr"] for group in trainer.optimizer.param_groups] == [1e-3, 1e-3, 1e-2, 1e-2]
    resumed = start(new_trainer, new_model(gate="tanh", seed=1), segments, way)
    resumed.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-3"))
    ours = resumed.model.state_dict()
    assert all(torch.equal(ours[name], after[name]) for name in after)


def test_the_log_says_how_far_gates_are_open(new_model, segments, new_trainer):
    model = new_model(gate="tanh")
    trainer = new_trainer(model, segments, max_steps=3)
    trainer.train()
    logged = [log["memory/gate"] for log in trainer.state.log_history if "loss" in log]
    gates = [block.memory.gate.item() for block in model.transformer.h]
    assert logged[0] == 0.0
    assert logged[-1] == pytest.approx(sum(abs(torch.tensor(gate).tanh().item()) for gate in gates) / len(gates))
    assert logged[-1] > 0
    plain = new_trainer(new_model(), segments, max_steps=1)
    plain.train()
    assert "memory/gate" not in plain.state.log_history[0]


@pytest.mark.parametrize(("kind", "gate"), [("engram", "tanh"), ("engram", "normed"), ("episodic", "tanh")])
def test_gates_of_every_kind_are_measured_as_they_multiply(kind, gate):
    model = tiny_model("Llama", "ForCausalLM", {"kind": kind, "gate": gate})
    assert mean_openness(model) == 0.0
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, -0.5)
    assert mean_openness(model) == pytest.approx(torch.tensor(0.5).tanh().item())
    adapted = with_lora(model)
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name and name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.0)
    assert mean_openness(adapted) == 0.0
    assert mean_openness(tiny_model("Llama", "ForCausalLM", small_memory())) is None
