"""Windows of ids: each id is embedded once, and projected once where there are more windows than ids."""

import pytest
import torch
from torch import nn

from hf_memoria.memories.episodic.id_windows import WindowMix, id_windows_of
from hf_memoria.memories.episodic.store.state import NO_ID

WIDTH, PLACES = 6, 3


def windows_and_mix(vocabulary, engrams=20):
    torch.manual_seed(0)
    embedding, mix = nn.Embedding(vocabulary, WIDTH), WindowMix(PLACES, WIDTH)
    with torch.no_grad():
        mix.weight.add_(torch.randn_like(mix.weight))
    ids = torch.randint(NO_ID, vocabulary, (2, engrams, PLACES + 1), dtype=torch.int32)
    ids[0, 0] = NO_ID
    return id_windows_of(ids, embedding), mix, embedding


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ahead", [0, 1])
def test_projecting_ids_is_projecting_windows(ahead, bias):
    windows, mix, embedding = windows_and_mix(vocabulary=5)
    linear, answers = nn.Linear(WIDTH, 4, bias=bias), []
    for made in (windows.projected(mix(), ahead, linear), linear(windows.mixed(mix(), ahead))):
        leaves = [*embedding.parameters(), *mix.parameters(), *linear.parameters()]
        answers.append((made, *torch.autograd.grad(made.square().sum(), leaves, retain_graph=True)))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_few_ids_in_many_windows_repeat():
    few, _, _ = windows_and_mix(vocabulary=5)
    many, _, _ = windows_and_mix(vocabulary=500)
    assert few.repeats(PLACES)
    assert not many.repeats(PLACES)
