"""Queries that are made of their own ids: which ids these are, and what such a search finds at first."""

import copy

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments
from torch.nn.functional import normalize

from hf_memoria.memories.episodic.reader import EpisodicReader
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


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize("key_window", [1, 3])
@pytest.mark.parametrize("pieces", [[6, 3], [1] * 9], ids=["two", "one-by-one"])
def test_a_segment_goes_on_in_a_plain_cache(family, key_window, pieces):
    model = tiny_model(family, "ForCausalLM", small_episodes(query_ids=True, key_window=key_window))
    first, second = (inputs["input_ids"] for inputs in tiny_segments(family, steps=2))
    with torch.no_grad():
        memory, cache, logits = model(first).memory, None, []
        whole = model(second, memory=memory).logits
        for part in second.split(pieces, dim=1):
            output = model(part, memory=memory, past_key_values=cache, use_cache=True)
            cache = copy.deepcopy(output.past_key_values)
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_a_cache_without_ids_is_refused():
    model = asks_by_ids()
    first, second = (inputs["input_ids"] for inputs in tiny_segments("Llama", steps=2))
    memory = model(first).memory
    output = model(second[:, :4], memory=memory, use_cache=True)
    plain = type(output.past_key_values)(config=model.config)
    keys = torch.zeros(2, model.config.num_key_value_heads, 4, model.config.head_dim)
    for layer in range(model.config.num_hidden_layers):
        plain.update(keys, keys, layer)
    with pytest.raises(ValueError, match=r"past_key_values must be a cache of 2 rows .* got one without"):
        model(second[:, 4:], memory=memory, past_key_values=plain)
    with pytest.raises(ValueError, match=r"past_key_values must be a cache of 1 rows .* got those of 2 rows"):
        model(second[:1, 4:], memory=memory[:1], past_key_values=output.past_key_values)


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
