"""Of which document a thing is: from a call, a batch and a prompt to the engrams, into files and out of memory."""

import pytest
import torch
from datasets import Dataset
from families import CAUSAL, read_all, small_episodes, states_equal, tiny_model, tiny_segments
from transformers import Trainer, TrainerCallback, TrainingArguments
from versions import needs_new_dynamo

from hf_memoria import (
    EngramMemoryConfig,
    MemoriaCache,
    MemoriaCallback,
    TokenMemoryConfig,
    load_memory,
    save_memory,
    segment_documents,
)

pytestmark = pytest.mark.slow

OTHERS = {"engram": EngramMemoryConfig(num_memories=4), "token": TokenMemoryConfig(num_tokens=4), "none": None}


def episodic(family="GPT2", **changes):
    return tiny_model(family, "ForCausalLM", small_episodes(**{"capacity": None, "keep": "fifo"} | changes))


@torch.no_grad()
def test_a_row_keeps_its_document_until_it_is_given_another_or_reset():
    model, segments = episodic(), tiny_segments("GPT2", steps=5)
    memory = model(**segments[0], source=torch.tensor([3, 4])).memory
    memory = model(**segments[1], memory=memory).memory
    memory = model(**segments[2], memory=memory, source=torch.tensor([3, 5], dtype=torch.int32)).memory
    assert [memory.sources(row) for row in (0, 1)] == [{3: 27}, {4: 18, 5: 9}]
    reset = torch.tensor([False, True])
    memory = model(**segments[3], memory=memory, reset_memory=reset).memory
    assert [memory.sources(row) for row in (0, 1)] == [{3: 36}, {0: 9}]
    memory = model(**segments[4], memory=memory, source=9).memory
    assert [memory.sources(row) for row in (0, 1)] == [{3: 36, 9: 9}, {0: 9, 9: 9}]


@torch.no_grad()
def test_what_is_forgotten_is_as_if_it_had_not_been_read_last():
    model, segments = episodic(), tiny_segments("GPT2", steps=4)
    memory = read_all(model, segments[:2])[-1].memory
    more = model(**segments[2], memory=memory, source=7).memory
    plain = model(**segments[3], memory=memory, source=8)
    forgotten = model(**segments[3], memory=more.forget(7), source=8)
    assert {7} == set(more.sources(0)) - set(forgotten.memory.sources(0))
    ids = torch.cat([inputs["input_ids"] for inputs in (*segments[:2], segments[3])], dim=1)
    assert forgotten.memory.text_ids(0) == plain.memory.text_ids(0) == ids[0].tolist()
    assert torch.equal(forgotten.memory.ids, plain.memory.ids)


def test_files_keep_it(tmp_path):
    model, segments = episodic(), tiny_segments("GPT2", steps=2)
    memory = model(**segments[0], source=torch.tensor([3, 4])).memory
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    again = load_memory(tmp_path / "memory.safetensors", model)
    assert again.sources(1) == {4: 9}
    assert states_equal(model(**segments[1], memory=again).memory, model(**segments[1], memory=memory).memory)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", CAUSAL)
def test_what_generate_reads_and_writes_is_of_the_document(family, beams, use_cache):
    model = episodic(family, segment_length=8)
    ids = tiny_segments(family, steps=1, length=5)[0]["input_ids"]
    before = model(ids, source=2).memory
    output = model.generate(
        ids,
        memory=before,
        source=torch.tensor([3, 4]),
        max_new_tokens=14,
        pad_token_id=60,
        eos_token_id=None,
        num_beams=beams,
        use_cache=use_cache,
        return_dict_in_generate=True,
    )
    assert [output.memory.sources(row) for row in (0, 1)] == [{2: 5, 3: 19}, {2: 5, 4: 19}]
    assert output.memory.forget(3).text_ids(0) == ids[0].tolist()


def test_a_cache_takes_it_where_reading_begins_and_then_has_its_own():
    model, (segment,) = episodic(segment_length=4), tiny_segments("GPT2", steps=1)
    cache = MemoriaCache(model.config)
    model(**segment, past_key_values=cache, source=6)
    assert cache.finished_memory().sources(0) == {6: 9}
    with pytest.raises(ValueError, match="source must be None with a MemoriaCache that is in use"):
        model(**segment, past_key_values=cache, source=6)
    with pytest.raises(ValueError, match="source must be None with past_key_values"):
        model.generate(**segment, past_key_values=MemoriaCache(model.config), source=6, max_new_tokens=2)


@needs_new_dynamo
@torch.no_grad()
def test_compiled_they_are_the_same():
    torch.compiler.reset()
    model, segments = episodic(), tiny_segments("GPT2", steps=3)
    memory = read_all(model, segments[:2])[-1].memory
    source = torch.tensor([3, 4])
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**segments[2], memory=memory, source=source)
    assert compiled.memory.sources(1) == model(**segments[2], memory=memory, source=source).memory.sources(1)


def test_bad_ids_are_refused():
    model, (segment,) = episodic(), tiny_segments("GPT2", steps=1)
    expected = r"source must be an integer of at least 0 or an integer tensor of shape \[2\]"
    for source in ("a", 1.0, True, [1, 2], torch.tensor([1.0, 2.0]), torch.tensor([True, False])):
        with pytest.raises(TypeError, match=expected):
            model(**segment, source=source)
    for source in (-1, 2**63, torch.tensor([1, -2]), torch.tensor([1]), torch.tensor([[1, 2]]), torch.tensor(1)):
        with pytest.raises(ValueError, match=expected):
            model(**segment, source=source)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_memories_leave_a_batch_s_ids_alone_and_refuse_a_number(kind):
    model, (segment,) = tiny_model("GPT2", "ForCausalLM", OTHERS[kind]), tiny_segments("GPT2", steps=1)
    assert torch.equal(model(**segment, source=torch.tensor([1, 2])).logits, model(**segment).logits)
    with pytest.raises(ValueError, match=r"source must be None for a m.*: it keeps no sources.*; got 5"):
        model(**segment, source=5)
    with pytest.raises(TypeError, match="source must be an integer"):
        model(**segment, source="five")


class SaveAt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == 4


def test_trainer_carries_it_to_the_engrams_and_over_a_resume(tmp_path):
    made = [[document * 10 + place for place in range(length)] for document, length in enumerate((9, 9, 6, 8))]
    data = segment_documents(Dataset.from_dict({"input_ids": made}), segment_length=3, lanes=2)
    memories = []
    for folder, resumed in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-4"))):
        callback = MemoriaCallback()
        arguments = TrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=2,
            train_sampling_strategy="sequential",
            max_steps=5,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        model = episodic(segment_length=3)
        Trainer(model, arguments, train_dataset=data, callbacks=[callback, SaveAt()]).train(
            resume_from_checkpoint=resumed
        )
        memories.append(callback.memory)
    assert states_equal(*memories)
    memory = memories[1]
    assert [memory.sources(row) for row in (0, 1)] == [{3: 6}, {4: 6}]
    for row in (0, 1):
        held = torch.tensor(memory.text_ids(row))
        assert torch.equal(held // 10 + 1, memory.source[row, : len(held)])
    assert memory.forget(3).text_ids(0) == []
