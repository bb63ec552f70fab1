"""A new separate read finds a word by itself, and reads the words behind it, before anything is learned."""

import pytest
import torch
from families import CAUSAL, small_episodes, tiny_model
from torch.nn.functional import normalize

from hf_memoria.memories.episodic.reader import EpisodicReader


def readers(model):
    return [module for module in model.modules() if isinstance(module, EpisodicReader)]


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("content", [["ids"], ["hidden"], ["ids", "hidden"]], ids="-".join)
def test_keys_start_as_queries(family, content):
    (reader,) = readers(tiny_model(family, "ForCausalLM", small_episodes(content=content)))
    key, query = reader.key if "ids" in content else reader.hidden_key, reader.query
    assert torch.equal(key.weight, query.weight)
    assert torch.equal(key.bias, query.bias)
    with torch.no_grad():
        key.weight.add_(1)  # and are weights of their own from then on
    assert not torch.equal(key.weight, query.weight)
    if len(content) == 2:
        assert not torch.equal(reader.hidden_key.weight, query.weight)


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("content", [["ids"], ["hidden"], ["ids", "hidden"]], ids="-".join)
def test_the_output_starts_as_the_transpose_of_values(family, content):
    (reader,) = readers(tiny_model(family, "ForCausalLM", small_episodes(content=content)))
    value = reader.value if "ids" in content else reader.hidden_value
    assert torch.equal(reader.output.weight, value.weight.T)
    with torch.no_grad():
        value.weight.add_(1)  # and is a weight of its own from then on
    assert not torch.equal(reader.output.weight, value.weight.T)


def test_embeddings_of_another_size_have_keys_and_outputs_of_their_own():
    torch.manual_seed(0)
    reader = EpisodicReader(8, 6, 2)
    before = reader.key.weight.clone(), reader.output.weight.clone()
    reader.copy_memory_parameters()
    assert torch.equal(reader.key.weight, before[0])
    assert torch.equal(reader.output.weight, before[1])


def test_a_word_finds_itself_before_anything_is_learned():
    (reader,) = readers(tiny_model("Llama", "ForCausalLM", small_episodes(key_window=1, gate=None)))
    words = torch.randn(50, reader.norm.normalized_shape[0])
    heads = (reader.num_heads, -1)
    asked = normalize(reader.query(reader.norm(words)).unflatten(-1, heads), dim=-1)
    keys = normalize(reader.key(reader.store_norm(words)).unflatten(-1, heads), dim=-1)
    best = torch.einsum("thd,mhd->htm", asked, keys).argmax(dim=-1)
    assert (best == torch.arange(50)).all()


def test_what_is_read_is_most_like_the_word_that_is_stored():
    (reader,) = readers(tiny_model("Llama", "ForCausalLM", small_episodes(key_window=1, gate=None)))
    words = reader.store_norm(torch.randn(50, reader.norm.normalized_shape[0]))
    read = reader.output(reader.value(words))
    assert (normalize(read, dim=-1) @ normalize(words, dim=-1).T).argmax(dim=-1).equal(torch.arange(50))


@pytest.mark.parametrize("part", ["query", "key", "value", "output"])
def test_keys_and_outputs_of_a_checkpoint_stay_as_they_are(part, tmp_path):
    model = tiny_model("Llama", "ForCausalLM", small_episodes())
    (reader,) = readers(model)
    with torch.no_grad():
        getattr(reader, part).weight.add_(1)
    model.save_pretrained(tmp_path)
    (loaded,) = readers(type(model).from_pretrained(tmp_path))
    for name in ("query", "key", "value", "output"):
        assert torch.equal(getattr(loaded, name).weight, getattr(reader, name).weight)
