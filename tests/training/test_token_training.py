"""A token memory under the plain Trainer: lanes, logs, evaluation, resuming, adapters, compiling, low precision."""

import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_memoria import (
    EngramMemoryConfig,
    MemoriaCallback,
    TokenMemoryConfig,
    TokenState,
    load_memory,
    memory_modules,
    wrap,
)

pytestmark = pytest.mark.slow

TOKENS = {"num_tokens": 3, "encoder_layers": 1, "encoder_heads": 2}
SETTINGS = {
    "losses": {},
    "through time": {"bptt_segments": 2},
    "rmt": {"encoder_layers": 0, "bptt_segments": None},
}
ADAM = {"optim": "adamw_torch", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def new_token_model(new_model):
    """Build a GPT-2 with memory tokens in training mode; the same seed gives the same weights."""

    def build(*, dropout=0.0, seed=0, **settings):
        plain = new_model(dropout=dropout, seed=seed, without_memory=True)
        torch.manual_seed(seed)
        return wrap(plain, memory=TokenMemoryConfig(**({"gate": None} | TOKENS | settings))).train()

    return build


class SaveAt(TrainerCallback):
    """Save in the middle of documents."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == 6


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_each_lane_is_fed_what_it_left(settings, new_token_model, segments, new_trainer, record):
    trainer = new_trainer(new_token_model(**settings), segments)
    calls = record(trainer.model)
    trainer.train()
    resets = torch.tensor(segments["reset_memory"]).view(-1, 4)
    real = torch.tensor(segments["attention_mask"]).any(-1).view(-1, 4)
    before = None
    for call, reset, has_tokens in zip(calls, resets, real, strict=True):
        assert call.before is before
        step = torch.zeros(4, dtype=torch.long) if before is None else before.step.masked_fill(reset, 0)
        before = call.after
        assert isinstance(before, TokenState)
        assert torch.equal(before.step, step + has_tokens)


def test_logs_tell_each_loss_and_how_tokens_differ(new_token_model, segments, evaluation_segments, new_trainer):
    trainer = new_trainer(new_token_model(), segments, evaluation_segments, eval_strategy="epoch")
    trainer.train()
    training = [log for log in trainer.state.log_history if "loss" in log]
    names = ("task_loss", "recall_loss", "memory_loss", "composition", "variance_loss", "covariance_loss")
    for log in training:
        assert all(log[f"memory/{name}"] >= 0 for name in names)
        assert log["memory/slot_variance"] > 0
        assert log["memory/row_variance"] > 0
        assert "memory/short_term" not in log
    full = [log for log, row in zip(training, segments.to_list()[::4], strict=True) if row["attention_mask"][-1]]
    assert full
    for log in training[:1]:
        expected = log["memory/task_loss"] + 0.5 * log["memory/recall_loss"] + 0.125 * log["memory/memory_loss"]
        assert log["loss"] == pytest.approx(expected, abs=1e-3)
    evaluated = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert not [name for log in evaluated for name in log if name.startswith("memory/")]


def test_evaluation_counts_the_model_s_own_loss_alone(new_token_model, evaluation_segments, new_trainer):
    model = new_token_model().eval()
    trainer = new_trainer(model, None, evaluation_segments)
    total = count = 0
    memory = None
    with torch.no_grad():
        for start in range(0, len(evaluation_segments), 4):
            batch = evaluation_segments.with_format("torch")[start : start + 4]
            targets = batch.pop("shift_labels")
            output = model(**batch, shift_labels=targets, memory=memory)
            memory = output.memory
            total += (output.loss * (targets != -100).sum()).item() if (targets != -100).any() else 0
            count += (targets != -100).sum().item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_an_evaluation_leaves_the_training_memory(
    new_token_model, segments, evaluation_segments, new_trainer, difference
):
    # The memory loss draws random cuts, and a dataloader draws of the same generator.
    plain = new_trainer(new_token_model(memory_weight=0.0), segments)
    plain.train()
    model = new_token_model(memory_weight=0.0)
    interrupted = new_trainer(model, segments, evaluation_segments, eval_strategy="steps", eval_steps=3)
    interrupted.train()
    assert difference(plain.model, interrupted.model) == 0


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_resuming_within_documents_is_never_having_stopped(
    settings, new_token_model, segments, new_trainer, difference, tmp_path
):
    def start(folder):
        model = new_token_model(dropout=0.1, **settings)
        return new_trainer(model, segments, callbacks=[SaveAt()], output_dir=str(folder), **ADAM)

    whole = start(tmp_path / "whole")
    whole.train()
    resumed = start(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert difference(whole.model, resumed.model) == 0
    assert torch.equal(memory_of(whole).tokens, memory_of(resumed).tokens)
    saved = load_memory(tmp_path / "whole" / "checkpoint-6" / "memory-00000-of-00001.safetensors")
    assert isinstance(saved, TokenState)
    assert len(saved.history) == {0: 0, 2: 2}.get(settings.get("bptt_segments", 0), len(saved.history))


def memory_of(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, MemoriaCallback)).memory


def test_it_learns(new_token_model, segments, new_trainer, losses):
    model = new_token_model(recall_target="tokens")
    trainer = new_trainer(model, segments, num_train_epochs=6, optim="adamw_torch", learning_rate=3e-3)
    trainer.train()
    recall = losses(trainer, "memory/recall_loss")
    task = losses(trainer, "memory/task_loss")
    assert sum(task[-17:]) < 0.9 * sum(task[:17])
    assert sum(recall[-17:]) < 0.9 * sum(recall[:17])


def test_accumulated_steps_weigh_as_one_batch(new_token_model, cut, new_documents, new_trainer, losses):
    """Two lanes a batch and two batches a step, of one segment each: what is written does not matter."""
    documents = cut(new_documents((9, 9, 9, 9)), lanes=2)
    model = new_token_model(memory_weight=0.0)
    trainer = new_trainer(model, documents, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    trainer.train()
    task, recall = losses(trainer, "memory/task_loss")[0], losses(trainer, "memory/recall_loss")[0]
    assert losses(trainer)[0] == pytest.approx(task + 0.5 * recall, rel=1e-2)


def test_a_warning_says_that_nothing_reaches_what_is_written(new_token_model, segments, new_trainer):
    with pytest.warns(UserWarning, match="no loss reaches what the backbone writes"):
        new_trainer(new_token_model(encoder_layers=0), segments, max_steps=1).train()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no loss reaches")
        new_trainer(new_token_model(encoder_layers=0, bptt_segments=1), segments, max_steps=1).train()


def test_activation_checkpoints_change_nothing(new_token_model, segments, new_trainer, difference):
    plain = new_trainer(new_token_model(bptt_segments=1), segments, max_steps=4)
    plain.train()
    arguments = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    checkpointed = new_trainer(new_token_model(bptt_segments=1), segments, max_steps=4, **arguments)
    checkpointed.train()
    assert difference(plain.model, checkpointed.model) < 1e-6


def test_compiled_it_gives_the_same(new_token_model, segments, new_trainer, losses):
    torch.compiler.reset()
    plain = new_trainer(new_token_model(memory_weight=0.0), segments, max_steps=2)
    plain.train()
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer = new_trainer(new_token_model(memory_weight=0.0), segments, max_steps=2, **compiled)
    trainer.train()
    torch.compiler.reset()
    assert losses(trainer) == pytest.approx(losses(plain), abs=1e-4)
    assert losses(trainer, "memory/recall_loss") == pytest.approx(losses(plain, "memory/recall_loss"), abs=1e-4)


def test_low_precision(new_token_model, segments, new_trainer, losses):
    mixed = new_trainer(new_token_model(), segments, max_steps=4, bf16=True)
    mixed.train()
    assert memory_of(mixed).tokens.dtype == torch.float32
    assert all(loss == loss for loss in losses(mixed))
    whole = new_token_model().to(torch.bfloat16)
    batch = segments.with_format("torch")[:4]
    output = whole(**batch)
    output.loss.backward()
    assert output.memory.tokens.dtype == torch.bfloat16
    assert output.loss.isfinite()


def test_adapters_train_the_memory_in_full(new_token_model, segments, new_trainer, tmp_path):
    new_token_model().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        lora = LoraConfig(target_modules=["c_attn"], r=2, task_type="CAUSAL_LM", modules_to_save=memory_modules(model))
        adapted = get_peft_model(model, lora)
    before = {name: value.detach().clone() for name, value in adapted.named_parameters() if value.requires_grad}
    assert {name for name in before if "token_memory" in name}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*parameters of the memory are frozen")
        new_trainer(adapted, segments, max_steps=3, **ADAM).train()
    after = dict(adapted.named_parameters())
    still = [name for name, value in before.items() if torch.equal(after[name], value)]
    assert not [name for name in still if "token_memory" in name]
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    batch = segments.with_format("torch")[:4]
    with torch.no_grad():
        outputs = [one(**batch) for one in (adapted.eval(), loaded, loaded.merge_and_unload())]
    for output in outputs[1:]:
        torch.testing.assert_close(outputs[0].logits, output.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs[0].memory.tokens, output.memory.tokens, atol=1e-5, rtol=1e-5)


def test_memories_are_not_mistaken_for_one_another(new_model, new_token_model, segments, new_trainer, tmp_path):
    trainer = new_trainer(new_model(), segments, callbacks=[SaveAt()], output_dir=str(tmp_path), max_steps=7, **ADAM)
    trainer.train()
    other = new_trainer(new_token_model(), segments, output_dir=str(tmp_path / "other"), **ADAM)
    with pytest.raises((ValueError, RuntimeError)):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert isinstance(memory_of(trainer).batch_size, int)
    assert isinstance(trainer.model.config.memory, EngramMemoryConfig)


def test_names_say_what_is_ours(new_token_model):
    model = new_token_model()
    plain = {name for name, _ in wrap(model, memory=None).named_parameters()}
    own = {name for name, _ in model.named_parameters()} - plain
    assert own
    assert all("memory" in name for name in own)
    assert not [name for name in plain if "memory" in name]
    assert memory_modules(model) == ["token_memory"]
    assert isinstance(model.transformer.token_memory, nn.Module)
