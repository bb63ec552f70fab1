"""TRL's SFTTrainer drives the memory as Trainer does, once it runs the whole model."""

import pytest
import torch
from families import small_memory, tiny_model
from transformers import Trainer, default_data_collator
from transformers.utils import is_peft_available

from hf_memoria import MemoriaCallback, memory_modules

trl = pytest.importorskip("trl", reason="trl is not installed")


class MyTrainer(trl.SFTTrainer):
    """As the README says: SFTTrainer's own loss runs the backbone alone, without its memory."""

    compute_loss, prediction_step = Trainer.compute_loss, Trainer.prediction_step


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(61)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w0"
    )


@pytest.fixture
def sft(tmp_path, tokenizer):
    """Build an SFTTrainer as the README says."""

    def build(model, train, evaluate=None, *, trainer=MyTrainer, **settings):
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path),
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            num_train_epochs=1,
            max_grad_norm=1.0,
            learning_rate=0.05,
            lr_scheduler_type="constant",
            optim="sgd",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            **settings,
        )
        return trainer(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=evaluate,
            data_collator=default_data_collator,
            processing_class=tokenizer,
            callbacks=[MemoriaCallback()],
        )

    return build


def test_it_trains_as_trainer_does(sft, new_model, segments, evaluation_segments, new_trainer, losses, difference):
    trainer = sft(new_model(), segments, evaluation_segments)
    trainer.train()
    plain = new_trainer(new_model(), segments, evaluation_segments)
    plain.train()
    assert losses(trainer) == pytest.approx(losses(plain), abs=1e-5)
    assert difference(trainer.model, plain.model) < 1e-5
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-5)
    assert "memory/long_term" in trainer.state.log_history[0]


@pytest.mark.skipif(not is_peft_available(), reason="peft is not installed")
def test_it_trains_an_adapter_and_the_memory(sft, new_model, segments):
    from peft import LoraConfig, get_peft_model

    model = new_model()
    lora = LoraConfig(target_modules="all-linear", modules_to_save=memory_modules(model), task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    trainer = sft(model, segments)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]


def test_its_own_loss_is_refused_where_that_leaves_the_memory_out(sft, new_model, segments):
    trainer = sft(new_model(), segments, trainer=trl.SFTTrainer, max_steps=2)
    if not hasattr(trl.trainer.sft_trainer, "add_fused_lm_head"):
        trainer.train()
        assert "memory/short_term" in trainer.state.log_history[1]
        return
    with pytest.raises(ValueError, match=r"class MyTrainer\(SFTTrainer\): compute_loss, prediction_step = Tr"):
        trainer.train()


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_model_is_made_by_its_checkpoint_as_the_reference_of_dpo_is(family, tmp_path):
    from trl.trainer.utils import create_model_from_path

    model = tiny_model(family, "ForCausalLM", small_memory())
    model.save_pretrained(tmp_path)
    found = create_model_from_path(str(tmp_path))
    assert type(found) is type(model)
    assert found.config.memory == model.config.memory
