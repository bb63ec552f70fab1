"""The tables of log intersections, against the functions that they were made from."""

import math

import pytest
import torch

from hf_memoria.sdm import (
    circle_intersection,
    cosine_to_hamming,
    fit_beta,
    hamming_to_cosine,
    log_cap_intersection,
    log_circle_intersection,
    log_weights,
    optimal_betas,
)


@pytest.mark.parametrize(("n", "radius"), [(64, 11), (64, 40), (7, 2), (1000, 447), (64, 0)])
def test_circles_are_looked_up_exactly(n, radius):
    distances = torch.arange(n + 1)
    found = log_weights(hamming_to_cosine(distances, n).reshape(1, -1), n, radius)
    assert torch.equal(found, log_circle_intersection(n, radius, distances).reshape(1, -1))
    between = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(
        log_weights(between, n, radius), log_circle_intersection(n, radius, cosine_to_hamming(between, n))
    )


@pytest.mark.parametrize(("n", "radius"), [(64, 11), (64, 40), (8, 3), (1000, 447)])
def test_caps_are_interpolated(n, radius):
    parted = min(2 * math.acos(1 - 2 * radius / n), math.pi)
    angles = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * parted * 0.95
    found, exact = log_weights(angles.cos(), n, radius, "cap"), log_cap_intersection(n, radius, angles.cos())
    assert (found - exact).abs().max() < 1e-3
    assert log_weights(torch.ones(1), n, radius, "cap").item() == pytest.approx(log_cap_intersection(n, radius, 1.0))


def test_beyond_twice_the_radius_nothing_is_left():
    cosine = torch.tensor([1 - 2 * 22 / 64, 1 - 2 * 22.6 / 64, 0.0])
    for settings in ({}, {"smooth": True}):
        finite = log_weights(cosine, 64, 11, **settings).isfinite()
        assert finite.tolist() == [True, bool(not settings), False]  # 22.6 bits round down to 22
    parting = math.cos(2 * math.acos(1 - 22 / 64))
    assert log_weights(torch.tensor([parting + 1e-3, parting - 1e-3]), 64, 11, "cap").isfinite().tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize(("n", "radius"), [(64, 11), (64, 40), (9, 3)])
def test_smooth_circles_stay_near_the_staircase_and_have_its_slope(n, radius):
    last = min(2 * radius, n)
    distances = torch.arange(last + 1)
    exact = log_circle_intersection(n, radius, distances)
    smooth = log_weights(hamming_to_cosine(distances, n), n, radius, smooth=True)
    steps = (exact[:-2] - exact[2:]).abs()
    assert smooth[0] == exact[0]
    assert (smooth[3:-2] - exact[3:-2]).abs().max() <= steps.max() / 4 + 1e-9
    middles = torch.arange(1.5, last - 2, 2)
    assert torch.allclose(log_weights(hamming_to_cosine(middles, n), n, radius, smooth=True), exact[2 : last - 1 : 2])
    cosine = torch.tensor(hamming_to_cosine(4.5, n), requires_grad=True)
    log_weights(cosine, n, radius, smooth=True).backward()
    one, other = (math.log(circle_intersection(n, radius, d_v)) for d_v in (4, 6))
    assert cosine.grad.item() == pytest.approx((one - other) / 2 * n / 2)


@pytest.mark.parametrize("settings", [{"kind": "cap"}, {"smooth": True}])
def test_gradients_are_right_and_finite_at_the_ends(settings):
    cosine = torch.tensor([0.91, 0.62, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: log_weights(c, 64, 15, **settings), cosine, eps=1e-7)
    ends = torch.tensor([1.0, -1.0], requires_grad=True)
    log_weights(ends, 64, 40, **settings).sum().backward()
    assert ends.grad.isfinite().all()


def test_what_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="kind must be one of 'binary', 'cap'; got 'ball'"):
        log_weights(torch.zeros(1), 64, 11, "ball")
    with pytest.raises(ValueError, match=r"radius must be an int in 0\.\.64; got 65"):
        log_weights(torch.zeros(1), 64, 65)


def test_the_betas_of_the_optima():
    assert optimal_betas(64, 1024) == {
        "snr": fit_beta(64, 11).beta,
        "capacity": fit_beta(64, 5).beta,
        "critical": fit_beta(64, 15).beta,
    }
    assert optimal_betas(8, 4)["capacity"] is None
