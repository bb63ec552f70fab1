"""The separate read against the one that goes engram by engram: values and gradients."""

import pytest
import torch
from families import small_episodes, tiny_model
from torch import nn

from hf_memoria.memories.episodic.id_windows import Windows
from hf_memoria.memories.episodic.naive_reader import read_naively
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.reading import store_of, with_hidden
from hf_memoria.memories.episodic.searched import OwnIds
from hf_memoria.memories.episodic.selection import is_long
from hf_memoria.memories.episodic.spread_read import by_links
from hf_memoria.memories.episodic.store import EpisodicState, KeepPolicy, Segment, write_segment
from hf_memoria.memories.episodic.store.windows import past_ids, windows_in_place

pytestmark = pytest.mark.slow

WIDTH, HEADS, VOCABULARY = 8, 2, 20
FORMS = {
    "plain": {},
    "behind": {"value_ahead": 0},
    "few": {"top_k": 3},
    "some-whole": {"top_k": 3, "read_all_up_to": 10},
    "one": {"window": 1, "top_k": 2},
    "own": {"query_ids": True, "top_k": 3},
    "own-one": {"query_ids": True, "window": 1},
    "own-hidden": {"query_ids": True, "reads_hidden": True, "gated": True},
    "own-spread": {"query_ids": True, "spreads": True},
    "own-stick": {"query_ids": True, "weighting": "stick_breaking", "top_k": 3},
    "spread": {"spreads": True},
    "spread-few": {"spreads": True, "top_k": 3, "gated": True},
    "cofire": {"spreads": True},
    "both": {"spreads": True, "top_k": 3},
    "hidden": {"reads_hidden": True},
    "hidden-alone": {"reads_hidden": True, "reads_tokens": False},
    "stick": {"weighting": "stick_breaking"},
    "stick-some-whole": {"weighting": "stick_breaking", "top_k": 3, "read_all_up_to": 10},
    "stick-few": {"weighting": "stick_breaking", "top_k": 3, "gated": True},
}


def random_state(window, ragged, embeds=False, seed=0, again=False, policy=None):
    generator = torch.Generator().manual_seed(seed)
    state = EpisodicState.empty(3, WIDTH, window=window, num_links=3)
    # Each id once: of two engrams with one key either may be among the best.
    text = torch.rand(3, VOCABULARY, generator=generator).argsort(dim=1)
    text = text % 2 if again else text
    for step in range(4):
        real = torch.rand(3, 4, generator=generator) < (0.7 if ragged else 1.1)
        if ragged:
            real[2] = False  # a row that has read nothing
        ids = text[:, 4 * step : 4 * step + 4]
        hidden = torch.randn(3, 4, 1, WIDTH, generator=generator)
        vectors = torch.randn(3, 4, WIDTH, generator=generator) if embeds and step % 2 else None
        segment = Segment(real=real, ids=None if vectors is not None else ids, embeds=vectors, hidden=hidden)
        paid = torch.rand(3, state.width, generator=generator)
        state = write_segment(state, segment, paid, policy or KeepPolicy())
    return state


def reader_of(seed=0, **form):
    torch.manual_seed(seed)
    reader = EpisodicReader(WIDTH, WIDTH, HEADS, **form)
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return reader


def set_part(monkeypatch, size):
    """Go through stores of more engrams than this in parts."""
    for bound in ("PART", "WHOLE"):
        monkeypatch.setattr(f"hf_memoria.memories.episodic.selection.{bound}", size)


def own_ids(reader, state, embeds=False):
    """What positions of five ids are, or of five embeddings; None where queries are not made of it."""
    if not reader.query_ids:
        return None
    ids = torch.randint(VOCABULARY, (3, 5))
    windows = windows_in_place(past_ids(state), None if embeds else ids, torch.ones(3, 5, dtype=torch.bool))
    return OwnIds(windows, torch.randn(3, 5, WIDTH) if embeds else None)


@pytest.mark.parametrize("small", [1024, 5], ids=["whole", "parts"])
@pytest.mark.parametrize("embeds", [False, True], ids=["ids", "embeds"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("form", FORMS)
def test_it_reads_what_the_naive_one_reads(form, ragged, embeds, small, monkeypatch):
    set_part(monkeypatch, small)
    # Parts are made of projected ids, the whole of projected windows.
    monkeypatch.setattr(Windows, "repeats", lambda windows, places: small == 5)
    reader, embed = reader_of(**FORMS[form]), nn.Embedding(VOCABULARY, WIDTH)
    state = random_state(FORMS[form].get("window", 3), ragged, embeds)
    hidden, own = torch.randn(3, 5, WIDTH, requires_grad=True), own_ids(reader, state, embeds)
    graph = form if form in ("cofire", "both") else "segment"
    answers = []
    for naive in (True, False):
        leaves = [hidden, *embed.parameters(), *reader.parameters()]
        if naive:
            read = read_naively(reader, hidden, state, embed, graph, own)
        else:
            store = with_hidden(store_of(state, reader.value_ahead, graph), state.hidden)
            read = reader(hidden, store, embed, own=own).hidden
        gradients = torch.autograd.grad(
            (read * torch.linspace(-1, 1, WIDTH)).square().sum(), leaves, allow_unused=True
        )
        answers.append((read, gradients))
    (expected, wanted), (read, gradients) = answers
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(gradients, wanted, strict=True):
        if one is None and other is None:
            continue  # the embeddings, where hidden states alone are read
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("weighting", ["softmax", "stick_breaking"])
def test_a_row_with_nothing_to_read_keeps_its_stream_to_the_bit(weighting):
    reader, embed = reader_of(weighting=weighting), nn.Embedding(VOCABULARY, WIDTH)
    state = random_state(3, ragged=True)
    hidden = torch.randn(3, 5, WIDTH)
    read = reader(hidden, store_of(state, 1), embed).hidden
    assert torch.equal(read[2], hidden[2])
    assert not torch.equal(read[0], hidden[0])


def test_a_value_waits_for_the_id_behind_it():
    state = random_state(3, ragged=False)
    assert store_of(state, 0).valid.sum() == 3 * 16
    assert store_of(state, 1).valid.sum() == 3 * 15


def test_each_id_is_embedded_once():
    reader, state, seen = reader_of(), random_state(3, ragged=False), []
    table = nn.Embedding(VOCABULARY, WIDTH)

    def embed(ids):
        seen.append(ids)
        return table(ids)

    reader(torch.randn(3, 5, WIDTH), store_of(state, 1), embed)
    (ids,) = seen
    assert ids.numel() == state.ids.unique().numel() < state.ids.numel()


@pytest.mark.parametrize("form", ["plain", "some-whole", "stick-few"])
def test_autocast_reads_the_same_but_for_rounding(form):
    reader, embed = reader_of(**FORMS[form]), nn.Embedding(VOCABULARY, WIDTH)
    hidden, store = torch.randn(3, 5, WIDTH), store_of(random_state(3, ragged=True), 1)
    precise = reader(hidden, store, embed)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = reader(hidden, store, embed)
    rounded.hidden.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in reader.parameters())
    torch.testing.assert_close(rounded.weights.float(), precise.weights, atol=0.05, rtol=0)
    assert not rounded.weights.masked_select(~store.valid[:, None, None]).any()


def test_only_stores_with_many_scores_are_gone_through_in_parts():
    def long(engrams, queries):
        return is_long(random_store(engrams), queries)

    assert not long(1024, 10**9)
    assert not long(4096, 2048)
    assert long(4096, 2049)
    assert long(4097, 1)


def random_store(engrams):
    store = store_of(random_state(3, ragged=False), 0)
    return store.take(torch.zeros(3, engrams, dtype=torch.int64), torch.ones(3, engrams, dtype=torch.bool))


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "another module"])
def test_only_plain_projections_are_made_of_ids_alone(adapted, monkeypatch):
    class Adapted(nn.Linear):
        pass

    reader, embed = reader_of(), nn.Embedding(VOCABULARY, WIDTH)
    if adapted:
        reader.key.__class__ = Adapted
    store, made = store_of(random_state(3, ragged=False), 1), []
    monkeypatch.setattr(Windows, "repeats", lambda windows, places: True)
    monkeypatch.setattr(Windows, "mixed", lambda *args, mixed=Windows.mixed: made.append(1) or mixed(*args))
    reader(torch.randn(3, 5, WIDTH), store, embed)
    assert len(made) == adapted


def test_heads_may_be_fewer_than_the_backbone_has(monkeypatch):
    set_part(monkeypatch, 5)
    torch.manual_seed(0)
    reader, embed = EpisodicReader(WIDTH, WIDTH, 3, head_size=2, top_k=4), nn.Embedding(VOCABULARY, WIDTH)
    state = random_state(3, ragged=True)
    hidden = torch.randn(3, 5, WIDTH)
    read = reader(hidden, store_of(state, 1), embed).hidden
    torch.testing.assert_close(read, read_naively(reader, hidden, state, embed), atol=1e-5, rtol=1e-4)
    assert reader.key.weight.shape == reader.value.weight.shape == (6, WIDTH)


def test_links_are_found_in_a_part_of_the_store():
    state = random_state(3, ragged=False)
    store = store_of(state, 0, "cofire")
    columns = torch.tensor([0, 2, 5, 7, 11, 15]).expand(3, -1)
    part = store.take(columns, torch.ones(3, 6, dtype=torch.bool))
    found = torch.zeros(3, 2, 16).scatter(2, columns.unsqueeze(1).expand(-1, 2, -1), torch.rand(3, 2, 6))
    expected = by_links(found, store).gather(2, columns.unsqueeze(1).expand(-1, 2, -1))
    assert expected.any()
    torch.testing.assert_close(by_links(found.gather(2, columns.unsqueeze(1).expand(-1, 2, -1)), part), expected)


def test_widths_have_to_divide():
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of num_heads \(3\); got 8"):
        EpisodicReader(8, 8, 3)


@pytest.mark.parametrize("form", ["plain", "hidden", "hidden-alone", "one"])
def test_keys_and_values_of_a_large_store_are_made_in_parts(form, monkeypatch):
    reader, embed = reader_of(**FORMS[form]), nn.Embedding(VOCABULARY, WIDTH)
    state = random_state(FORMS[form].get("window", 3), ragged=True)
    store = with_hidden(store_of(state, reader.value_ahead, "segment"), state.hidden)
    with torch.no_grad():
        windows = reader.windows(embed, store)
        whole = reader.bank(windows, store)
        set_part(monkeypatch, 5)
        monkeypatch.setattr("hf_memoria.memories.episodic.queries_keys_values.LARGE", 5)
        made = []
        monkeypatch.setattr(reader, "keys", lambda *args: made.append(1) or type(reader).keys(reader, *args))
        parts = reader.bank(windows, store)
    assert len(made) == -(-store.valid.shape[1] // 5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("association", [None, "spread"])
def test_vectors_of_zeros_are_read_in_half_precision(dtype, association):
    """A token of padding that nobody masks has an embedding of zeros, and a key made of these is zero."""
    model = tiny_model("Llama", "ForCausalLM", small_episodes(association=association), pad_token_id=1).to(dtype)
    model.get_input_embeddings().weight[1] = 0
    ids = torch.tensor([[1, 1, 1, 1, 5, 6, 7]])
    memory = model(input_ids=ids).memory
    logits = model(input_ids=ids, memory=memory).logits
    assert logits.isfinite().all()
    assert not torch.equal(logits, model(input_ids=ids).logits)
