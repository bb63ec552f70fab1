"""Shared attention under masks of floats: a backbone's biases stay, and stored positions have none."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hf_memoria.memories.episodic.shared_attention import Asked, _attend, _attend_to_all
from hf_memoria.memories.episodic.shared_keys import SharedKeys, Visible
from hf_memoria.memories.shared.own_attention import mask_of_keys

B, H, Q, M, D = 2, 4, 5, 7, 8


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("distances", [False, True])
@pytest.mark.parametrize("top_k", [None, M])
def test_biases_of_the_backbone_are_added_to_its_own_scores(top_k, distances, hides):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    query, key, value = (draw(B, H, Q, D) for _ in range(3))
    bias = draw(1, H, Q, Q)
    if hides:
        bias[..., -1] = torch.finfo(bias.dtype).min
    of_distance = draw(B, H, Q, M) if distances else None
    seen = torch.ones(B, M, dtype=torch.bool)
    shared = SharedKeys(
        draw(B, H, M, D), draw(B, H, M, D), Visible.of(seen, torch.zeros_like(seen)), top_k, of_distance
    )
    module = torch.nn.Identity()
    mask = mask_of_keys(module, query, key, bias, is_causal=False)

    stored = torch.zeros(B, H, Q, M) if of_distance is None else of_distance
    expected = F.scaled_dot_product_attention(
        query,
        torch.cat([shared.keys, key], dim=2),
        torch.cat([shared.values, value], dim=2),
        torch.cat([stored, bias.expand(B, -1, -1, -1)], dim=-1),
    ).transpose(1, 2)
    with_weights, _ = _attend(query, key, value, mask, None, 0.0, shared)
    torch.testing.assert_close(with_weights, expected, atol=1e-5, rtol=1e-5)
    asked = Asked(module, query, key, value, mask, None, 0.0)
    quickly = _attend_to_all(asked, shared, SimpleNamespace(counts_attention=False))
    torch.testing.assert_close(quickly, expected, atol=1e-5, rtol=1e-5)
