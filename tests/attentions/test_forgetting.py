"""Forgetting functions against their definitions."""

import pytest
import torch

from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingFunction, ForgettingReLU

SCORES = torch.tensor([[3.0, -1.0, 0.0, 2.0], [-4.0, -3.0, -2.0, -1.0]])


def test_relu_is_its_definition():
    D, kept = ForgettingReLU()(SCORES)
    assert D.tolist() == [[3, 0, 0, 2], [0, 0, 0, 0]]
    assert kept.tolist() == [[True, False, False, True], [False] * 4]


@pytest.mark.parametrize(
    ("mu", "thresholds"), [("median", [0.0, -3.0]), ("mean", [1.0, -2.5]), (0.5, [0.5, 0.5]), (-2, [-2.0, -2.0])]
)
@pytest.mark.parametrize("bias", ["mu", -7.0])
def test_pfu_keeps_what_is_above_its_threshold(mu, thresholds, bias):
    D, kept = PFU(mu, bias)(SCORES)
    for row, a in enumerate(thresholds):
        for j, s in enumerate(SCORES[row].tolist()):
            assert kept[row, j].item() is (s > a)
            assert D[row, j].item() == (s if s > a else a if bias == "mu" else bias)


def test_the_median_is_the_lower_of_two_middle_values():
    _, kept = PFU()(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
    assert kept.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("mu", ["median", "mean"])
def test_thresholds_are_of_the_keys_that_a_row_may_see(mu):
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 7)
    allowed = torch.rand(2, 3, 7) > 0.4
    allowed[0, 0] = False
    D, kept = PFU(mu)(scores, allowed)
    assert torch.isfinite(D).all()
    for row in [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]:
        seen = allowed[row]
        alone_D, alone_kept = PFU(mu)(scores[row][seen])
        assert torch.equal(kept[row][seen], alone_kept)
        assert torch.allclose(D[row][seen], alone_D)


def test_noise_is_in_training_only_and_has_the_deviation_sigma():
    unit, scores = PFU(0.0, "mu", sigma=0.25), torch.full((1, 1), -100.0)
    torch.manual_seed(0)
    drawn = torch.stack([unit(scores)[0] for _ in range(4000)])
    assert drawn.std().item() == pytest.approx(0.25, rel=0.05)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.02)
    assert unit.eval()(scores)[0].item() == 0.0


def test_one_draw_serves_a_call():
    D, _ = PFU(0.0, "mu", sigma=1.0)(torch.full((2, 3, 4), -100.0))
    assert D.unique().numel() == 1


@pytest.mark.parametrize("asked", [False, True])
def test_the_threshold_has_a_gradient_only_if_asked(asked):
    scores = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    D, _ = PFU(threshold_gradient=asked)(scores)
    D.sum().backward()
    # The median, 2, stands for itself and for 1.
    assert scores.grad.tolist() == [[0.0, 2.0 if asked else 0.0, 1.0]]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"mu": "mode"}, ValueError, "mu must be 'median' or 'mean' or a finite number; got 'mode'"),
        ({"mu": None}, TypeError, "mu must be"),
        ({"mu": True}, TypeError, "mu must be"),
        ({"bias": "median"}, ValueError, "bias must be 'mu' or a finite number; got 'median'"),
        ({"bias": float("inf")}, ValueError, "bias must be"),
        ({"sigma": -0.1}, ValueError, "sigma must be a finite number, 0 or above; got -0.1"),
        ({"sigma": "0"}, TypeError, "sigma must be"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, error, words):
    with pytest.raises(error, match=words):
        PFU(**settings)


def test_ours_keep_the_protocol():
    assert isinstance(ForgettingReLU(), ForgettingFunction)
    assert isinstance(PFU(), ForgettingFunction)
    assert repr(PFU(mu=1.5)) == "PFU(mu=1.5, bias='mu', sigma=0.0)"
