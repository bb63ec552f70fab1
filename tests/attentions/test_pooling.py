"""Pooling layers against their equations."""

import pytest
import torch
from torch.nn import functional as F

from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU
from hf_memoria.attentions.pooling import AttentionPooling, HopfieldPooling

UNITS = pytest.mark.parametrize("unit", [None, ForgettingReLU(), PFU()], ids=["softmax", "relu", "pfu"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def weights_of(scores, unit):
    D, kept = (scores, 1) if unit is None else unit(scores)
    return D.softmax(-1) * kept


@UNITS
@pytest.mark.parametrize("steps", [0, 2])
def test_hopfield_pooling_is_its_equation(unit, steps):
    layer = HopfieldPooling(6, 4, 5, num_heads=1, scaling=0.9, update_steps_max=steps, quantity=2, forgetting=unit)
    torch.nn.init.normal_(layer.state_pattern)
    bag = torch.randn(1, 7, 6)
    query = layer.query(F.layer_norm(layer.state_pattern, (6,)))
    key, value = layer.key(F.layer_norm(bag[0], (6,))), layer.value(F.layer_norm(bag[0], (6,)))
    for _ in range(steps):
        query = weights_of(0.9 * query @ key.T, unit) @ key
    expected = layer.output(weights_of(0.9 * query @ key.T, unit) @ value)
    assert torch.allclose(layer(bag)[0], expected.flatten(), atol=1e-6)


@UNITS
def test_hopfield_pooling_of_several_heads_is_torch_attention(unit):
    layer = HopfieldPooling(8, 4, num_heads=2, quantity=3, forgetting=unit, normalize_stored_pattern=False)
    bag = torch.randn(2, 5, 8)
    assert layer(bag).shape == (2, 24)
    assert layer.get_association_matrix(bag).shape == (2, 2, 3, 5)
    if unit is None:
        state = layer.norms[0](layer.state_pattern).expand(2, -1, -1)
        heads = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (layer.query(state), layer.key(bag))]
        value = layer.value(layer.norms[2](bag)).unflatten(-1, (2, 4)).transpose(1, 2)
        found = F.scaled_dot_product_attention(*heads, value).transpose(1, 2).flatten(2)
        assert torch.allclose(layer(bag), layer.output(found).flatten(1), atol=1e-6)


@UNITS
def test_pools_see_no_padding_and_no_order(unit):
    bag, order = torch.randn(2, 5, 6), torch.tensor([3, 0, 4, 1, 2])
    padded = torch.cat([bag, torch.randn(2, 3, 6)], dim=1)
    real = torch.arange(8) < 5
    hopfield = HopfieldPooling(6, forgetting=unit)
    assert torch.allclose(hopfield(padded, ~real.expand(2, -1)), hopfield(bag), atol=1e-6)
    assert torch.allclose(hopfield(bag[:, order]), hopfield(bag), atol=1e-6)
    pooling = AttentionPooling(6, forgetting=unit)
    got, weights = pooling(padded, real.expand(2, -1))
    assert torch.allclose(got, pooling(bag)[0], atol=1e-6)
    assert not weights[:, 5:].any()
    assert torch.allclose(pooling(bag[:, order])[0], pooling(bag)[0], atol=1e-6)


@UNITS
def test_attention_pooling_is_its_equation(unit):
    pooling = AttentionPooling(6, hidden_size=3, num_layers=2, forgetting=unit)
    bag = torch.randn(1, 9, 6)
    hidden = bag[0]
    for layer in (pooling.network[0], pooling.network[2]):
        hidden = F.selu(hidden @ layer.weight.T + layer.bias)
    scores = (hidden @ pooling.network[4].weight.T + pooling.network[4].bias).T
    weights = weights_of(scores, unit)
    got, seen = pooling(bag)
    assert torch.allclose(seen, weights, atol=1e-6)
    assert torch.allclose(got, weights @ bag[0], atol=1e-6)


def test_a_bag_without_an_instance_gives_zeros_and_finite_gradients():
    pooling = AttentionPooling(6, forgetting=ForgettingReLU())
    got, _ = pooling(torch.randn(2, 4, 6), torch.tensor([[True] * 4, [False] * 4]))
    got.sum().backward()
    assert not got[1].any()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


def test_state_patterns_learn_unless_told_otherwise_and_dropout_is_for_training():
    assert not HopfieldPooling(6, trainable=False).state_pattern.requires_grad
    layer, bag = HopfieldPooling(6, dropout=0.5), torch.randn(2, 5, 6)
    layer(bag).sum().backward()
    assert layer.state_pattern.grad.abs().sum() > 0
    assert not torch.equal(layer(bag), layer(bag))
    layer.eval()
    assert torch.equal(layer(bag), layer(bag))


def test_hopfield_pooling_begins_as_hflayers_does():
    layer = HopfieldPooling(64, 64)
    for name in ("query", "key", "value", "output"):
        linear = getattr(layer, name)
        assert not linear.bias.any()
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert layer.state_pattern.std().item() == pytest.approx(0.02, rel=0.3)
    assert HopfieldPooling(6, input_bias=False).query.bias is None
    # Each bag keeps some of its patterns: ReLU has something to learn from.
    kept = HopfieldPooling(8, forgetting=ForgettingReLU()).get_association_matrix(torch.randn(50, 16, 8)) > 0
    assert kept.any(-1).all()
    assert not kept.all(-1).any()


def test_sizes_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="quantity must be at least 1; got 0"):
        HopfieldPooling(6, quantity=0)


@pytest.mark.parametrize("seed", range(10))
def test_scores_do_not_begin_where_all_is_forgotten(seed):
    torch.manual_seed(seed)
    pooling = AttentionPooling(32, forgetting=ForgettingReLU())
    pooled, weights = pooling(torch.randn(4, 50, 32))
    pooled.square().sum().backward()
    assert (weights > 0).float().mean() > 0.5
    *others, bias = [parameter.grad.abs().max() for parameter in pooling.parameters()]
    assert min(others) > 1e-3
    assert bias < 1e-5  # a number added to all scores means nothing: what is left of it is rounding
