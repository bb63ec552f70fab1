"""The intersection of two caps of the hypersphere: closed forms, the paper's own integral, samples, limits."""

import math

import pytest
import torch

from hf_memoria.sdm import cap_intersection, log_cap_intersection

COSINES = (1.0, 0.999, 0.9, 0.5, 0.0, -0.4, -0.9, -1.0)


def angles(n, radius, cosine):
    """Opening of both caps and half the angle between their centres."""
    return math.acos(1 - 2 * radius / n), math.acos(cosine) / 2


def closed_form(n, radius, cosine):
    """1/pi int (1 - cos^2 theta / cos^2 psi)^k dpsi from half to theta, k = (n - 2) / 2 whole, by powers of tan."""
    theta, half = angles(n, radius, cosine)
    if half >= theta:
        return 0.0
    t = math.cos(theta) ** 2

    def primitive(psi):
        tan = math.tan(psi)
        return {2: psi, 4: psi - t * tan, 6: psi - 2 * t * tan + t * t * (tan + tan**3 / 3)}[n]

    return (primitive(theta) - primitive(half)) / math.pi


@pytest.mark.parametrize(("n", "radius"), [(2, 1), (4, 1), (6, 1), (6, 2)])
@pytest.mark.parametrize("cosine", COSINES)
def test_closed_forms_of_even_dimensions(n, radius, cosine):
    assert cap_intersection(n, radius, cosine) == pytest.approx(closed_form(n, radius, cosine), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_one_cap_of_the_sphere_in_three_dimensions(radius):
    """Archimedes: its share is its share of the height."""
    assert cap_intersection(3, radius, 1.0) == pytest.approx(radius / 3, rel=1e-12)


@pytest.mark.parametrize(("n", "radius"), [(8, 2), (8, 7), (64, 11), (65, 40), (1000, 100), (1000, 451), (5000, 3)])
def test_one_cap_by_the_incomplete_beta_function(n, radius):
    mpmath = pytest.importorskip("mpmath", reason="the incomplete beta function of high order comes from mpmath")
    with mpmath.workdps(30):
        small = min(radius, n - radius)
        sine_squared = 4 * mpmath.mpf(small) * (n - small) / n**2
        share = mpmath.betainc((n - 1) / mpmath.mpf(2), mpmath.mpf(1) / 2, 0, sine_squared, regularized=True) / 2
        expected = float(mpmath.log(share if radius == small else 1 - share))
    assert log_cap_intersection(n, radius, 1.0) == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize(("n", "radius", "cosine"), [(64, 11, 0.9), (64, 27, -0.2), (1000, 451, 0.5)])
def test_the_papers_integral_with_its_factor_two(n, radius, cosine):
    """2 J / S_n, J = pi^((n-1)/2) / Gamma((n-1)/2) int sin^(n-2) I_{1-(tan half/tan phi)^2}((n-2)/2, 1/2) dphi."""
    mpmath = pytest.importorskip("mpmath", reason="the incomplete beta function of high order comes from mpmath")
    theta, half = angles(n, radius, cosine)
    with mpmath.workdps(25):
        order = (n - 2) / mpmath.mpf(2)

        def integrand(phi):
            inside = 1 - (mpmath.tan(half) / mpmath.tan(phi)) ** 2
            return mpmath.sin(phi) ** (n - 2) * mpmath.betainc(order, 0.5, 0, inside, regularized=True)

        J = mpmath.quad(integrand, mpmath.linspace(half, theta, 9), maxdegree=4)
        J *= mpmath.pi ** ((n - 1) / mpmath.mpf(2)) / mpmath.gamma((n - 1) / mpmath.mpf(2))
        surface = 2 * mpmath.pi ** (n / mpmath.mpf(2)) / mpmath.gamma(n / mpmath.mpf(2))
        expected = float(2 * J / surface)
    assert cap_intersection(n, radius, cosine) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("radius", "cosine"), [(2, 0.5), (3, 0.0), (5, -0.3), (6, -0.9)])
def test_samples_of_the_sphere_in_eight_dimensions(radius, cosine):
    points = torch.randn(400_000, 8, generator=torch.Generator().manual_seed(0))
    points /= points.norm(dim=1, keepdim=True)
    other = cosine * points[:, 0] + math.sqrt(1 - cosine**2) * points[:, 1]
    inside = ((points[:, 0] >= 1 - radius / 4) & (other >= 1 - radius / 4)).double()
    four_errors = 4 * (inside.var() / len(points)).sqrt().item()
    assert cap_intersection(8, radius, cosine) == pytest.approx(inside.mean().item(), abs=four_errors)


@pytest.mark.parametrize(("n", "radius"), [(2, 1), (3, 1), (8, 3), (8, 6), (64, 32), (65, 33), (1001, 500)])
def test_limits(n, radius):
    cosines = torch.linspace(1, -1, 41, dtype=torch.float64)
    shares = cap_intersection(n, radius, cosines)
    assert (shares.diff() <= 1e-15).all()
    opening = math.acos(1 - 2 * radius / n)
    apart = cosines < math.cos(min(2 * opening, math.pi)) - 1e-9
    assert (shares[apart] == 0).all()
    opposite = cap_intersection(n, n - radius, cosines)
    whole = 1 - cap_intersection(n, radius, 1.0) - cap_intersection(n, n - radius, 1.0)
    assert whole == pytest.approx(0, abs=1e-12)
    assert torch.allclose(opposite, 1 - 2 * shares[0] + shares, rtol=1e-10, atol=1e-12)


def test_half_spheres_and_everything():
    assert cap_intersection(64, 32, [1.0, 0.0]).tolist() == pytest.approx([0.5, 0.25], rel=1e-12)
    assert cap_intersection(64, 32, -1.0) == pytest.approx(0, abs=1e-15)
    assert cap_intersection(64, 64, -1.0) == 1
    assert cap_intersection(64, 0, 1.0) == 0


def test_shapes_and_chunks():
    cosines = torch.rand(2, 3, 1000) * 2 - 1
    shares = cap_intersection(16, 5, cosines)
    assert shares.shape == cosines.shape
    assert shares.dtype == torch.float64
    assert shares[1, 2, 999].item() == pytest.approx(cap_intersection(16, 5, cosines[1, 2, 999].item()), rel=1e-12)
    assert cap_intersection(16, 5, torch.empty(0)).shape == (0,)
    assert isinstance(cap_intersection(16, 5, 1), float)
    assert cap_intersection(16, 5, 1 + 2e-16 * 2) == cap_intersection(16, 5, 1.0)  # a cosine that was rounded up


def test_logarithms_do_not_underflow():
    assert cap_intersection(5000, 3, 1.0) == 0
    assert -15085 < log_cap_intersection(5000, 3, 1.0) < -15084
    assert log_cap_intersection(64, 5, -0.9) == -math.inf


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 1, 0.0), ValueError, "n must be an int of at least 2; got 1"),
        ((8, 9, 0.0), ValueError, r"radius must be an int in 0\.\.8; got 9"),
        ((8, 2, 1.001), ValueError, r"cosine must be in -1\.\.1; got 1\.001\. Normalise"),
        ((8, 2, [0.0, -1.5]), ValueError, r"cosine must be in -1\.\.1; got -1\.5"),
        ((8, 2, math.nan), ValueError, r"cosine must be in -1\.\.1; got nan"),
        ((8, 2, "0.5"), TypeError, "cosine must be a number or numbers; got '0.5'"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        cap_intersection(*arguments)
