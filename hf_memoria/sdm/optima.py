"""The betas of the three optimal radii: what the beta of an attention head is compared with."""

from __future__ import annotations

from hf_memoria.sdm.beta import fit_beta
from hf_memoria.sdm.radius import CRITERIA, optimal_radius


def optimal_betas(
    n: int, num_patterns: int, num_neurons: float | None = None, kind: str = "binary", ddof: int | str = 0
) -> dict[str, float | None]:
    """Fit beta at the radius that is best for each of "snr", "capacity" and "critical".

    Args:
        n: number of bits (or dimensions; of a head, say), at least 2.
        num_patterns: m, at least 1.
        num_neurons: r; None: one at every address, 2**n.
        kind: the intersection to fit, of circles ("binary") or of caps ("cap").
        ddof: 0, ordinary least squares, or "paper", the published values.

    Returns:
        Criterion -> beta. None where no radius of 2 bits or more is optimal, as for the capacity of very few bits.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range or unknown.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 4.

    Examples:
        >>> {name: round(beta, 1) for name, beta in optimal_betas(64, 1024, ddof="paper").items()}
        {'snr': 15.9, 'capacity': 35.5, 'critical': 10.1}
    """
    found: dict[str, float | None] = {}
    for criterion in CRITERIA:
        radius = optimal_radius(n, criterion, num_patterns, num_neurons)
        found[criterion] = fit_beta(n, radius, kind, ddof).beta if radius >= 2 else None
    return found
