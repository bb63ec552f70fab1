"""What was published about sparse distributed memory, and what this package computes: a table, ours beside theirs.

    python recipes/sdm_reference_values.py

The published values are those of Kanerva's book and of the notebooks of Bricken & Pehlevan (NeurIPS 2021). Their betas
divide a covariance with N - 1 by a variance with N; `ddof="paper"` does likewise; the last column is least squares.
"""

from collections.abc import Iterator

from hf_memoria.sdm import (
    capacity_fraction,
    circle_intersection,
    continuous_expected_neurons,
    critical_distance,
    expected_neurons,
    fit_beta,
    fraction_to_radius,
    nearest_neuron_distance,
    optimal_radius,
    radius_to_fraction,
    snr_fraction,
    success_quantile,
)

KANERVA = {  # distance: exact, Kanerva's approximation, Kanerva's book
    0: (1071.850049, 970.769893, 1000),
    1: (958.436527, 888.214545, 894),
    10: (795.873633, 713.056676, 743),
    50: (476.873676, 426.702117, 445),
    100: (285.830559, 254.636411, 267),
    150: (173.627261, 153.930182, 162),
    200: (103.460716, 91.252432, 97),
    300: (32.323798, 28.196980, 30),
    400: (7.597126, 6.553410, 7),
    500: (1.101265, 0.942394, 1),
}
COUNTS = {0: 8303633, 1: 1274786, 3: 231076, 5: 36022, 7: 4102, 9: 252, 11: 0}
BETAS = {5: 35.48476174346817, 9: 20.040984673242452, 11: 15.852765236405924, 15: 10.110419065799585}
CAP_BETAS = {5: 71.7092092212466, 9: 29.767091221988935}
FRACTIONS = (1e-13, 1e-9, 1e-8, 7e-6, 3.68e-4, 0.1)
RADII = {
    64: (5, 9, 11, 15, 19, 27),
    784: (290, 308, 314, 331, 345, 374),
    1000: (384, 405, 411, 431, 447, 480),
}
CRITICAL = {9: 18, 10: 20, 11: 22, 12: 24, 13: 26, 14: 28, 15: 30, 16: 30, 17: 30, 18: 28, 19: 26, 20: 24, 21: 20}
CRITICAL |= {22: 12, 23: 0, 24: 0, 25: 0}

Row = tuple[str, float, float, float | None]


def intersections() -> Iterator[Row]:
    """Kanerva's table, and raw counts."""
    for distance, (exact, continuous, _) in KANERVA.items():
        yield f"neurons, n=1000 r=1e6 d=451, d_v={distance}", exact, expected_neurons(1000, 451, distance, 1e6), None
        approximation = continuous_expected_neurons(1000, 451, distance, 1e6)
        yield f"  Kanerva's approximation, d_v={distance}", continuous, float(approximation), None
    for distance, count in COUNTS.items():
        yield f"addresses, n=64 d=5, d_v={distance}", count, circle_intersection(64, 5, distance), None


def radii() -> Iterator[Row]:
    """Optimal fractions and radii, critical distances."""
    yield "p* for signal to noise, r=2^64 m=60000", 7.673020240510549e-09, float(snr_fraction(60000, 2**64)), None
    yield "z for all of 64 bits, P=0.5", 2.298313131383402, success_quantile(64, 0.5), None
    yield "p* for capacity, n=64 r=2^64", 1.979930592478041e-13, float(capacity_fraction(64)), None
    for criterion, radius in (("snr", 11), ("capacity", 5), ("critical", 15)):
        yield f"optimal radius, n=64 m=1024, {criterion}", radius, optimal_radius(64, criterion, 1024), None
    for n, expected in RADII.items():
        for fraction, radius in zip(FRACTIONS, expected, strict=True):
            yield f"radius of the fraction {fraction:g}, n={n}", radius, fraction_to_radius(n, fraction), None
    yield "fraction of the radius 5, n=64", 4.5014084690611633e-13, float(radius_to_fraction(64, 5)), None
    for radius, distance in CRITICAL.items():
        yield f"critical distance, n=64 m=1024 d={radius}", distance, critical_distance(64, radius, 1024), None
    yield "nearest of 1e6 neurons, n=1000", 424.84176249454015, nearest_neuron_distance(1000, 1e6), None


def betas() -> Iterator[Row]:
    """Fitted betas, as published and as least squares."""
    for kind, published in (("binary", BETAS), ("cap", CAP_BETAS)):
        for radius, beta in published.items():
            ours, plain = fit_beta(64, radius, kind, "paper").beta, fit_beta(64, radius, kind).beta
            yield f"beta, n=64 d={radius}, {kind}", beta, ours, plain


def table() -> list[Row]:
    """Return (what, published, ours, by least squares where that differs)."""
    return [*intersections(), *radii(), *betas()]


def main() -> None:
    """Print the table."""
    print(f"{'':44} {'published':>18} {'ours':>18} {'difference':>11} {'least squares':>14}")
    for name, published, ours, plain in table():
        difference = abs(ours - published) / abs(published) if published else abs(ours)
        last = "" if plain is None else f"{plain:14.6f}"
        print(f"{name:44} {published:18.11g} {ours:18.11g} {difference:11.1e} {last}".rstrip())


if __name__ == "__main__":
    main()
