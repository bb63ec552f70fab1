"""The beta of a circle: as published, as least squares gives it, and as a softmax sees it."""

import math

import pytest
import torch

from hf_memoria.sdm import (
    circle_intersection,
    fit_beta,
    fit_beta_softmax,
    fit_line,
    hamming_to_cosine,
    log_cap_intersection,
)

PUBLISHED = {5: 35.48476174346817, 9: 20.040984673242452, 11: 15.852765236405924, 15: 10.110419065799585}
LEAST_SQUARES = {5: 28.387809, 9: 17.814209, 11: 14.411605, 15: 9.436391}
CAP_PUBLISHED = {5: 71.7092092212466, 9: 29.767091221988935}
CAP_LEAST_SQUARES = {5: 57.367367, 9: 26.459637, 11: 19.581587}
QUOTED = {15: 10.1, 11: 15.9, 5: 35.5}


@pytest.mark.parametrize("radius", PUBLISHED)
def test_published_betas(radius):
    assert fit_beta(64, radius, ddof="paper").beta == pytest.approx(PUBLISHED[radius], rel=1e-13)


@pytest.mark.parametrize("radius", QUOTED)
def test_betas_quoted_for_the_optima(radius):
    assert f"{fit_beta(64, radius, ddof='paper').beta:.1f}" == f"{QUOTED[radius]}"


@pytest.mark.parametrize("radius", LEAST_SQUARES)
def test_least_squares(radius):
    assert f"{fit_beta(64, radius).beta:.6f}" == f"{LEAST_SQUARES[radius]:.6f}"
    assert fit_beta(64, radius, ddof="paper").beta == pytest.approx(
        fit_beta(64, radius).beta * radius / (radius - 1), rel=1e-14
    )


def below_one(radius):
    """The cosines of the reference, which begin at 1 - 1e-15: its integral divides by the tangent of the angle."""
    cosines = hamming_to_cosine(torch.arange(radius), 64)
    cosines[0] -= 1e-15
    return cosines


@pytest.mark.parametrize("radius", CAP_PUBLISHED)
def test_published_betas_of_caps(radius):
    """At cosine 1 the intersection has a kink: 1e-15 moves the eighth digit. The rest is the reference's integral."""
    assert fit_beta(64, radius, "cap", "paper").beta == pytest.approx(CAP_PUBLISHED[radius], rel=5e-8)
    cosines = below_one(radius)
    fit = fit_line(cosines, log_cap_intersection(64, radius, cosines), inflate=radius / (radius - 1))
    assert fit.beta == pytest.approx(CAP_PUBLISHED[radius], rel=3e-9)


def integrated(radius, cosines, published, **tolerances):
    """Log of the paper's integral of sin^62 phi I_{1 - (tan low / tan phi)^2}(31, 1/2) from low to theta, `[radius]`.

    `published`: `low` by the formula for two different caps, and 1 - (...)^2 as it stands: near cosine 1 both lose
    half of their digits. Otherwise `low` is half the angle, and I is taken by its complement, with all digits.
    """
    integrate = pytest.importorskip("scipy.integrate", reason="the published values are those of scipy's quad")
    special = pytest.importorskip("scipy.special")
    theta = math.acos(1 - 2 * radius / 64)

    def one(cosine):
        angle = math.acos(cosine)
        low = math.asin(math.sqrt((1 - cosine) / 2))
        if published:
            low = math.atan(math.cos(theta) / (math.cos(theta) * math.sin(angle)) - 1 / math.tan(angle))

        def share(phi):
            outside = (math.tan(low) / math.tan(phi)) ** 2
            return special.betainc(31, 0.5, 1 - outside) if published else special.betaincc(0.5, 31, outside)

        return math.log(integrate.quad(lambda phi: math.sin(phi) ** 62 * share(phi), low, theta, **tolerances)[0])

    return torch.tensor([one(cosine) for cosine in cosines.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("radius", CAP_PUBLISHED)
def test_published_betas_of_caps_are_those_of_an_integral_that_is_rounded(radius):
    """To the last digit; the same integral from cosine 1 and with all digits is ours, to the last but one."""
    cosines, inflate = below_one(radius), radius / (radius - 1)
    rounded = fit_line(cosines, integrated(radius, cosines, published=True), inflate).beta
    assert rounded == pytest.approx(CAP_PUBLISHED[radius], rel=1e-14)
    exact = hamming_to_cosine(torch.arange(radius), 64).to(torch.float64)
    converged = integrated(radius, exact, published=False, epsabs=0, epsrel=1e-13, limit=500)
    ours = fit_beta(64, radius, "cap", "paper").beta
    assert ours == pytest.approx(fit_line(exact, converged, inflate).beta, rel=1e-13)
    assert abs(ours / CAP_PUBLISHED[radius] - 1) > 1e-8


@pytest.mark.parametrize("radius", CAP_LEAST_SQUARES)
def test_least_squares_of_caps(radius):
    assert fit_beta(64, radius, "cap").beta == pytest.approx(CAP_LEAST_SQUARES[radius], rel=5e-8)
    cosines = below_one(radius)
    beta = fit_line(cosines, log_cap_intersection(64, radius, cosines)).beta
    assert f"{beta:.6f}" == f"{CAP_LEAST_SQUARES[radius]:.6f}"


def test_a_line_is_found_exactly():
    x = torch.tensor([0.0, 1.0, 4.0])
    fit = fit_line(x, 3 * x - 2)
    assert (fit.beta, fit.intercept, fit.r_squared) == pytest.approx((3, -2, 1))
    noisy = fit_line(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 2.0]))
    assert (noisy.beta, noisy.intercept, noisy.r_squared) == pytest.approx((1, 0.5, 0.5))
    assert fit_line(x, torch.ones(3)).r_squared == 1


def test_the_line_is_the_best_one():
    """No other slope or intercept explains more; the published slope explains less."""
    fit = fit_beta(64, 5)
    cosines = hamming_to_cosine(torch.arange(5), 64)
    logs = torch.tensor(circle_intersection(64, 5, range(5)), dtype=torch.float64).log()

    def residual(beta, intercept):
        return (logs - beta * cosines - intercept).square().sum().item()

    best = residual(fit.beta, fit.intercept)
    assert fit.r_squared == pytest.approx(1 - best / (logs - logs.mean()).square().sum().item())
    for beta, intercept in ((1.001, 1), (0.999, 1), (1, 1.001), (1, 0.999)):
        assert residual(fit.beta * beta, fit.intercept * intercept) > best
    assert fit_beta(64, 5, ddof="paper").r_squared < fit.r_squared


@pytest.mark.parametrize("kind", ["binary", "cap"])
@pytest.mark.parametrize("n", [64, 1000])
def test_intersections_are_nearly_exponential(n, kind):
    assert fit_beta(n, n // 4, kind).r_squared > 0.97


@pytest.mark.parametrize("kind", ["binary", "cap"])
@pytest.mark.parametrize(("n", "radius"), [(64, 5), (64, 15), (1000, 451)])
def test_no_softmax_is_nearer(n, radius, kind):
    fit = fit_beta_softmax(n, radius, kind)
    cosines = hamming_to_cosine(torch.arange(radius), n)
    if kind == "cap":
        target = log_cap_intersection(n, radius, cosines).softmax(0)
    else:
        counts = circle_intersection(n, radius, range(radius))
        target = torch.tensor([count / sum(counts) for count in counts], dtype=torch.float64)

    def error(beta):
        return ((beta * cosines).softmax(0) - target).square().sum().item()

    assert all(error(fit.beta * factor) > error(fit.beta) for factor in (0.01, 0.5, 0.999, 1.001, 2, 100))
    assert torch.allclose((fit.beta * cosines + fit.intercept).exp(), (fit.beta * cosines).softmax(0))
    assert fit.r_squared == pytest.approx(1 - error(fit.beta) / (target - target.mean()).square().sum().item())
    assert error(fit.beta) < error(fit_beta(n, radius, kind).beta)


@pytest.mark.parametrize("fit", [fit_beta, fit_beta_softmax])
def test_errors_name_the_argument(fit):
    with pytest.raises(ValueError, match=r"kind must be one of 'binary', 'cap'; got 'sphere'\. Pass"):
        fit(64, 5, "sphere")
    with pytest.raises(ValueError, match=r"radius must be an int in 2\.\.64; got 1"):
        fit(64, 1)
    with pytest.raises(ValueError, match="n must be an int of at least 2; got 1"):
        fit(1, 1)
    with pytest.raises(TypeError, match="n must be an int of at least 2; got '64'"):
        fit("64", 5)


@pytest.mark.parametrize("ddof", [1, False, "papers", None])
def test_errors_about_ddof(ddof):
    with pytest.raises(ValueError, match="ddof must be one of 0, 'paper'; got"):
        fit_beta(64, 5, ddof=ddof)
