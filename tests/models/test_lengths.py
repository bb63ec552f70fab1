"""Forwards over more than a segment: told once where nothing is remembered, refused in training and past the table."""

import copy
import threading
import warnings

import pytest
import torch
from families import CAUSAL, ENCODERS, small_memory, small_tokens, stock_twin, tiny_model, with_targets
from own_families import MemoriaDistilBertConfig, MemoriaDistilBertForMaskedLM

from hf_memoria import MemoriaCache

pytestmark = pytest.mark.slow

POSITIONS, SEGMENT = 16, 8
KINDS = {"engrams": small_memory(segment_length=SEGMENT), "tokens": small_tokens(segment_length=SEGMENT)}
TABLES = ("GPT2", *(family for family in ENCODERS if family != "ViT"))


def ids(length, rows=2):
    return torch.randint(2, 59, (rows, length), generator=torch.Generator().manual_seed(length))


def told_by(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CAUSAL)
def test_several_segments_in_a_forward_without_a_cache_are_told_once(family, kind):
    model = tiny_model(family, "ForCausalLM", KINDS[kind])
    (told,) = told_by(lambda: [model(ids(12)) for _ in range(3)])
    assert told.startswith("12 tokens were read by one forward")
    assert "segment_length is 8" in told
    assert "past_key_values=MemoriaCache(model.config)" in told


def test_it_is_told_because_such_a_forward_is_the_plain_backbone():
    model = tiny_model("GPT2", "ForCausalLM", KINDS["engrams"])
    with pytest.warns(UserWarning, match="MemoriaCache"):
        plain = model(ids(12)).logits
    assert torch.equal(plain, stock_twin(model, "GPT2", "ForCausalLM")(ids(12)).logits)
    in_segments = model(ids(12), past_key_values=MemoriaCache(model.config)).logits
    assert not torch.equal(in_segments, plain)


def test_a_head_that_takes_no_memoria_cache_is_told_to_pass_segments():
    model = tiny_model("GPT2", "ForSequenceClassification", KINDS["engrams"])
    (told,) = told_by(lambda: model(ids(12)))
    assert "segments of 8 tokens one after another, each with memory=output.memory" in told


def test_positions_in_a_plain_cache_count():
    model = tiny_model("GPT2", "ForCausalLM", KINDS["engrams"])
    cache = model(ids(8), use_cache=True).past_key_values
    (told,) = told_by(lambda: model(ids(2), past_key_values=cache))
    assert told.startswith("10 tokens")
    cache = model(ids(8), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="16 positions; got 18"):
        model(ids(10), past_key_values=cache)


def test_nothing_is_told_where_it_does_not_matter():
    model = tiny_model("GPT2", "ForCausalLM", KINDS["engrams"])
    memory = model(ids(8)).memory
    calls = [
        lambda: model(ids(8)),
        lambda: model(ids(12), memory=memory),
        lambda: model(ids(12), reset_memory=torch.tensor([True, True])),
        lambda: model(ids(40), past_key_values=MemoriaCache(model.config)),
        lambda: model.generate(ids(30), max_new_tokens=3, do_sample=False),
        lambda: model.generate(ids(30), max_new_tokens=3, do_sample=False, use_cache=False),
        lambda: tiny_model("GPT2", "ForCausalLM")(ids(12)),
        lambda: tiny_model("Bert", "ForMaskedLM", KINDS["engrams"])(ids(12)),
    ]
    assert [told_by(call) for call in calls] == [[]] * len(calls)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_more_tokens_than_positions_are_refused_with_both_numbers(family, head, kind):
    model = tiny_model(family, head, KINDS[kind])
    model(ids(POSITIONS), reset_memory=torch.tensor([True, True]))
    with pytest.raises(ValueError, match="at most the backbone's 16 positions; got 17") as refused:
        model(ids(17))
    cached = family == "GPT2" and head == "Model"
    assert ("MemoriaCache(model.config)" if cached else "memory=output.memory") in str(refused.value)
    with pytest.raises(ValueError, match="16 positions; got 17"):
        model(inputs_embeds=model.get_input_embeddings()(ids(17)))


def test_a_family_of_ones_own_is_refused_the_same_way():
    sizes = {"vocab_size": 61, "n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 40, "max_position_embeddings": 16}
    model = MemoriaDistilBertForMaskedLM(MemoriaDistilBertConfig(**sizes, memory=KINDS["engrams"]))
    with pytest.raises(ValueError, match="16 positions; got 17"):
        model(ids(17))


def test_what_the_backbone_takes_it_is_given():
    # Positions given, rotary ones, and padding that RoBERTa counts no position of.
    gpt2 = tiny_model("GPT2", "Model", small_memory())
    gpt2(ids(20), position_ids=torch.arange(20)[None] % 10, reset_memory=torch.tensor([True, True]))
    tiny_model("Llama", "Model", small_memory())(ids(20), reset_memory=torch.tensor([True, True]))
    roberta, padded = tiny_model("Roberta", "Model", small_memory()), ids(20)
    padded[:, 15:] = roberta.config.pad_token_id
    roberta(padded, attention_mask=(padded != roberta.config.pad_token_id).long())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "head"), [("GPT2", "ForCausalLM"), ("Llama", "ForCausalLM"), ("Bert", "ForMaskedLM")]
)
def test_rows_to_train_on_that_are_longer_than_a_segment_are_refused(family, head, kind):
    model = tiny_model(family, head, KINDS[kind]).train()
    model(**with_targets(family, head, {"input_ids": ids(SEGMENT)})).loss.backward()
    inputs = with_targets(family, head, {"input_ids": ids(9)})
    expected = r"config\.memory\.segment_length=8 tokens; got 9.*segment_documents\(\.\.\., segment_length=8"
    with pytest.raises(ValueError, match=expected):
        model(**inputs)
    with torch.no_grad():
        model(**inputs, reset_memory=torch.tensor([True, True]))
    model.eval()(**inputs, reset_memory=torch.tensor([True, True]))


def test_nothing_of_it_is_on_the_model_and_threads_are_told_once_together():
    model = tiny_model("GPT2", "ForCausalLM", KINDS["engrams"])
    before = set(vars(model)) | set(vars(model.base_model))
    threads = [threading.Thread(target=model, args=(ids(12),)) for _ in range(3)]

    def run():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(told_by(run)) == 1
    assert set(vars(model)) | set(vars(model.base_model)) == before
    assert len(told_by(lambda: copy.deepcopy(model)(ids(12)))) == 1


def test_a_compiled_graph_is_whole():
    model = tiny_model("GPT2", "ForCausalLM", KINDS["engrams"])
    memory = model(ids(8)).memory
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(ids(12), memory=memory).logits, model(ids(12), memory=memory).logits)
