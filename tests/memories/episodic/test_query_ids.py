"""Queries that are made of their own ids: which ids these are, and what such a search finds at first."""

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments
from torch.nn.functional import normalize

from hf_memoria import MemoriaCache
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.segment import reading_from
from hf_memoria.memories.episodic.store import EpisodicState, KeepPolicy, Segment, write_segment
from hf_memoria.memories.episodic.store.state import NO_ID
from hf_memoria.memories.episodic.store.windows import compact_ids, last_ids, past_ids, windows_in_place


def asks_by_ids(**settings):
    return tiny_model("Llama", "ForCausalLM", small_episodes(query_ids=True, **settings))


def reader_of(model):
    (reader,) = (module for module in model.modules() if isinstance(module, EpisodicReader))
    return reader


def naive_windows(past, ids, real, window):
    """Position by position: its id, and those of the real positions before it."""
    found = torch.full((*ids.shape, window + 1), NO_ID, dtype=torch.int32)
    for row in range(len(ids)):
        read = past[row].tolist()
        for place in range(ids.shape[1]):
            if real[row, place]:
                read.append(int(ids[row, place]))
                found[row, place, :window] = torch.tensor(read[::-1][:window])
    return found


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 5]], ids=["whole", "one-by-one", "two"])
def test_windows_are_those_of_the_real_positions(window, pieces):
    generator = torch.Generator().manual_seed(0)
    ids, real = torch.randint(50, (4, 9), generator=generator), torch.rand(4, 9, generator=generator) < 0.6
    real[1], real[2] = True, False
    state = EpisodicState.empty(4, 8, window=window)
    before = Segment(real=torch.tensor([[True] * 3, [False] * 3, [True] * 3, [False, True, False]]), ids=ids[:, :3])
    state = write_segment(state, before, torch.zeros(4, 0), KeepPolicy())
    past = past_ids(state)
    expected, made = naive_windows(past, ids, real, window), []
    for own, there in zip(ids.split(pieces, dim=1), real.split(pieces, dim=1), strict=True):
        made.append(windows_in_place(past, own, there))
        past = last_ids(past, compact_ids(own, there), there.sum(dim=1))
    assert torch.equal(torch.cat(made, dim=1)[..., :window][real], expected[..., :window][real])
    segment = Segment(real=real, ids=ids)
    assert torch.equal(past, past_ids(write_segment(state, segment, torch.zeros(4, state.width), KeepPolicy())))


@pytest.mark.parametrize("pieces", [[6, 3], [1] * 9], ids=["two", "one-by-one"])
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_segment_goes_on_in_a_plain_cache_where_no_earlier_id_is_asked_for(family, pieces):
    model = tiny_model(family, "ForCausalLM", small_episodes(query_ids=True, key_window=1))
    first, second = (inputs["input_ids"] for inputs in tiny_segments(family, steps=2))
    with torch.no_grad():
        memory, cache, logits = model(first).memory, None, []
        whole = model(second, memory=memory).logits
        for part in second.split(pieces, dim=1):
            output = model(part, memory=memory, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pieces", [[6, 3], [1] * 9], ids=["two", "one-by-one"])
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_cache_of_ours_keeps_the_ids_and_a_plain_one_is_refused(family, pieces):
    model = tiny_model(family, "ForCausalLM", small_episodes(query_ids=True, segment_length=9))
    first, second = (inputs["input_ids"] for inputs in tiny_segments(family, steps=2, length=9))
    with torch.no_grad():
        memory = model(first).memory
        whole = model(second, memory=memory).logits
        cache = MemoriaCache(model.config, memory=memory)
        logits = [model(part, past_key_values=cache).logits for part in second.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-4)
        plain = model(second[:, :4], memory=memory, use_cache=True).past_key_values
        with pytest.raises(ValueError, match=r"past_key_values must be empty or a MemoriaCache .* got one of 4"):
            model(second[:, 4:], memory=memory, past_key_values=plain)


def test_keys_of_a_checkpoint_are_found_as_they_were(tmp_path):
    trained = tiny_model("Llama", "ForCausalLM", small_episodes())
    trained.save_pretrained(tmp_path)
    first, second = (inputs["input_ids"] for inputs in tiny_segments("Llama", steps=2))
    asking = type(trained).from_pretrained(tmp_path, memory=small_episodes(query_ids=True))
    with torch.no_grad():
        answers = [model.eval()(second, memory=model(first).memory).logits for model in (trained, asking)]
    torch.testing.assert_close(*answers)


def test_weights_packed_in_bytes_stay():
    reader = EpisodicReader(8, 8, 2, query_ids=True)
    for layer in reader.modules():
        if isinstance(layer, torch.nn.Linear):
            packed = torch.zeros(layer.weight.shape, dtype=torch.uint8)
            layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    reader.copy_memory_parameters()
    assert not reader.query.weight.any()


def test_a_backbone_that_sees_other_positions_is_refused_by_name():
    model = asks_by_ids()
    first, second = (inputs["input_ids"] for inputs in tiny_segments("Llama", steps=2))
    memory = model(first).memory
    reading = reading_from(model, memory, torch.ones_like(second, dtype=torch.bool), None)
    reading.ids = second
    with pytest.raises(ValueError, match="query_ids must be False for a backbone whose blocks see other positions"):
        reading.own_ids(torch.zeros(2, second.shape[1] + 3, 8))


def test_embeddings_may_lead_back_to_a_graph():
    model = asks_by_ids(key_window=1).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    embed, memory = model.get_input_embeddings(), None
    for inputs in tiny_segments("Llama", steps=2):
        output = model(inputs_embeds=embed(inputs["input_ids"]), labels=inputs["input_ids"], memory=memory)
        output.loss.backward()
        memory = output.memory
    assert embed.weight.grad.any()


def test_keys_start_as_queries_of_ids():
    reader = reader_of(asks_by_ids())
    assert torch.equal(reader.key.weight, reader.id_query.weight)
    assert torch.equal(reader.key_mix.weight, reader.query_mix.weight)
    assert 0 < reader.query.weight.std() < 0.2 * reader.id_query.weight.std()
    with torch.no_grad():
        reader.key.weight.add_(1)  # and are weights of their own from then on
    assert not torch.equal(reader.key.weight, reader.id_query.weight)


@pytest.mark.parametrize("query_ids", [False, True])
def test_what_stood_behind_the_same_words_is_found_before_anything_is_learned(query_ids):
    torch.manual_seed(0)
    model = tiny_model(
        "Llama",
        "ForCausalLM",
        small_episodes(query_ids=query_ids, layers=[1], capacity=None, top_k=None, value_ahead=1),
        initializer_range=0.5,  # hidden states that say little of their words, as those of trained models
    )
    ids, looks, reader = torch.arange(1, 41).view(1, 40), [], reader_of(model)
    reader.register_forward_hook(lambda module, args, output: looks.append(output.weights))
    with torch.no_grad():
        model(ids[:, :20], memory=model(ids).memory)
    best = looks[-1][0].mean(dim=0).argmax(dim=-1)
    share = (best == torch.arange(20)).float().mean()
    assert (share == 1) if query_ids else (share < 0.9)


def test_embeddings_narrower_than_the_stream_are_found_too():
    torch.manual_seed(0)
    reader = EpisodicReader(8, 6, 2, window=1, query_ids=True)
    reader.copy_memory_parameters()
    words = reader.store_norm(torch.randn(20, 6))
    found = normalize(reader.id_query(words), dim=-1) @ normalize(reader.key(words), dim=-1).T
    assert torch.equal(found.argmax(dim=-1), torch.arange(20))


def test_without_its_own_ids_a_reader_says_so():
    reader = EpisodicReader(8, 8, 2, query_ids=True)
    with pytest.raises(ValueError, match="own must be given where query_ids is True; got None"):
        reader.asked(torch.randn(1, 3, 8), None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separate_read": False, "share_attention": True}, "query_ids must be False without separate_read"),
        ({"content": ["hidden"], "value_ahead": 0}, "query_ids must be False where content has no 'ids'"),
    ],
)
def test_where_it_would_do_nothing_it_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small_episodes(query_ids=True, **settings)
    with pytest.raises(ValueError, match="query_ids must be False without reads_tokens"):
        EpisodicReader(8, 8, 2, query_ids=True, reads_tokens=False, reads_hidden=True)


def test_it_is_a_switch():
    with pytest.raises(TypeError, match="query_ids must be True or False"):
        small_episodes(query_ids="yes")
