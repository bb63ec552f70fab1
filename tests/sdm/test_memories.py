"""Every memory against sums that are written out, and what they all promise."""

import math

import pytest
import torch

from hf_memoria.sdm import (
    HopfieldMemory,
    ModernHopfieldMemory,
    NeuronMemory,
    PatternMemory,
    ProjectedMemory,
    SoftmaxMemory,
    circle_intersection,
    cosine_to_hamming,
    expected_neurons,
    fit_beta,
    log_cap_intersection,
    log_weights,
)

N = 24

MEMORIES = {
    "neurons": lambda: NeuronMemory(N, 8, 300),
    "neurons, real": lambda: NeuronMemory(N, 8, 300, binary=False),
    "patterns": lambda: PatternMemory(N, 7),
    "patterns, finite": lambda: PatternMemory(N, 8, 5000),
    "patterns, real": lambda: PatternMemory(N, 7, binary=False),
    "patterns, real, caps": lambda: PatternMemory(N, 7, binary=False, kind="cap"),
    "patterns, real, caps, finite": lambda: PatternMemory(N, 8, 5000, binary=False, kind="cap"),
    "softmax": lambda: SoftmaxMemory(N, 6),
    "softmax, real": lambda: SoftmaxMemory(N, 6, binary=False),
    "modern hopfield": lambda: ModernHopfieldMemory(N, 2.0),
    "hopfield": lambda: HopfieldMemory(N),
    "projected": lambda: ProjectedMemory(N, 16, 5),
    "projected, circles": lambda: ProjectedMemory(N, 16, 5, weighting="binary"),
}


def random_patterns(shape, binary, seed=0):
    patterns = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(patterns > 0, 1.0, -1.0).double() if binary else patterns


def flipped(patterns, flips, seed=1):
    generator, queries = torch.Generator().manual_seed(seed), patterns.clone()
    for row in queries.view(-1, queries.shape[-1]):
        row[torch.randperm(len(row), generator=generator)[:flips]] *= -1
    return queries


@pytest.fixture(params=MEMORIES, ids=lambda name: name.replace(", ", "-"))
def memory(request):
    made = MEMORIES[request.param]()
    return made.double() if isinstance(made, ProjectedMemory) else made


def cosine(one, other):
    return max(-1.0, min(1.0, float(one @ other / one.norm() / other.norm())))


def slow_weights(memory, patterns, query):
    """The weight of every pattern, one at a time and from its definition; of neurons, that of what they share."""
    if isinstance(memory, NeuronMemory):
        opening = 1 - 2 * memory.radius / N - 1e-9
        near = [[cosine(a.double(), v) >= opening for a in memory.addresses] for v in (query, *patterns)]
        return [float(sum(q and p for q, p in zip(near[0], row, strict=True))) for row in near[1:]]
    if isinstance(memory, HopfieldMemory):
        return [float(pattern @ query) for pattern in patterns]
    if isinstance(memory, ModernHopfieldMemory):
        return [math.exp(memory.beta * float(pattern @ query)) for pattern in patterns]
    if isinstance(memory, SoftmaxMemory):
        return [math.exp(memory.beta * cosine(pattern, query)) for pattern in patterns]
    if isinstance(memory, ProjectedMemory):
        keys = [p @ memory.projection.detach() for p in (query, *patterns)]
        if memory.weighting != "softmax":
            similar = torch.tensor([cosine(key, keys[0]) for key in keys[1:]], dtype=torch.float64)
            return log_weights(similar, memory.key_size, memory.radius, memory.weighting, smooth=True).exp().tolist()
        return [math.exp(memory.beta.item() * cosine(key, keys[0])) for key in keys[1:]]
    similar = [cosine(pattern, query) for pattern in patterns]
    if memory.kind == "cap":
        counts = [math.exp(log_cap_intersection(N, memory.radius, c)) * (memory.num_neurons or 1) for c in similar]
    else:
        r = memory.num_neurons
        counts = [
            circle_intersection(N, memory.radius, d_v) if r is None else expected_neurons(N, memory.radius, d_v, r)
            for d_v in (cosine_to_hamming(c, N) for c in similar)
        ]
    if memory.num_neurons is None:
        return counts
    offsets = memory.write(patterns).offsets.tolist()
    return [float(math.floor(count + offset)) for count, offset in zip(counts, offsets, strict=True)]


def slow_read(memory, patterns, values, query):
    """One read of one query, by a sum over patterns."""
    weights = slow_weights(memory, patterns, query)
    reached = isinstance(memory, HopfieldMemory) or sum(weights) > 0
    if not reached:
        return (query if values is patterns else torch.zeros_like(values[0])), False
    mixed = sum(weight * value for weight, value in zip(weights, values, strict=True))
    if isinstance(memory, HopfieldMemory) and values is patterns:
        mixed = mixed - sum(pattern**2 for pattern in patterns) * query  # no self-connections
    if not memory.binary:
        return mixed / sum(weights), True
    tie = query if values is patterns else torch.ones_like(mixed)
    return torch.where(mixed.abs() < 1e-9, tie, mixed.sign()), True


@pytest.mark.parametrize("hetero", [False, True], ids=["auto", "hetero"])
def test_a_read_is_the_sum_over_patterns(memory, hetero):
    patterns = random_patterns((9, N), memory.binary)
    values = random_patterns((9, 5), memory.binary, seed=3) if hetero else patterns
    queries = torch.cat([flipped(patterns[:4], 3), random_patterns((4, N), memory.binary, seed=4)])
    read = memory.read(memory.write(patterns, values if hetero else None), queries)
    for row, query in enumerate(queries):
        expected, reached = slow_read(memory, patterns, values, query)
        assert bool(read.reached[row]) == reached
        # Caps are interpolated, all else is exact.
        assert torch.allclose(read.values[row], expected, atol=1e-3 if getattr(memory, "kind", "") == "cap" else 1e-9)


def test_queries_of_a_batch_read_their_own_patterns(memory):
    patterns = random_patterns((2, 3, 6, N), memory.binary)
    queries = flipped(patterns[..., :4, :], 2)
    together = memory.recall(memory.write(patterns), queries, max_steps=7)
    for i in range(2):
        for j in range(3):
            alone = memory.recall(memory.write(patterns[i, j]), queries[i, j], max_steps=7)
            assert torch.allclose(together.values[i, j], alone.values, atol=1e-9)
            assert torch.equal(together.steps[i, j], alone.steps)
            assert torch.equal(together.reached[i, j], alone.reached)
            assert torch.equal(together.converged[i, j], alone.converged)


def test_patterns_can_be_added(memory):
    patterns, values = random_patterns((8, N), memory.binary), random_patterns((8, 3), memory.binary, seed=2)
    queries = flipped(patterns, 2)
    for given in (None, values):
        whole = memory.write(patterns, given)
        first = memory.write(patterns[:5], None if given is None else given[:5])
        kept = first.keys.clone()
        parts = memory.write(patterns[5:], None if given is None else given[5:], first)
        assert torch.allclose(memory.read(parts, queries).values, memory.read(whole, queries).values, atol=1e-9)
        assert torch.equal(first.keys, kept)


def test_recall_reads_until_nothing_changes(memory):
    patterns = random_patterns((3, N), memory.binary, seed=5)
    store, queries = memory.write(patterns), flipped(patterns, 1)
    result = memory.recall(store, queries)
    current = queries
    for step in range(1, int(result.steps.max()) + 1):
        current = torch.where((result.steps >= step).unsqueeze(-1), memory.read(store, current).values, current)
    assert torch.equal(current, result.values)
    done = result.converged
    assert done.any()
    again = memory.read(store, result.values)
    assert torch.allclose(again.values[done], result.values[done], rtol=1e-2, atol=1e-3)
    assert again.converged[done].all()


def test_what_is_returned_belongs_to_what_was_found():
    memory = PatternMemory(N, 7)
    patterns, values = random_patterns((4, N), True), random_patterns((4, 3), True, seed=2)
    result = memory.recall(memory.write(patterns, values), flipped(patterns, 3))
    assert torch.equal(result.values, values)
    assert result.converged.all()


@pytest.mark.parametrize(
    "memory",
    [
        NeuronMemory(N, 0, 50),
        PatternMemory(N, 2),
        PatternMemory(N, 2, 10),
        PatternMemory(N, 2, binary=False),
        PatternMemory(N, 2, binary=False, kind="cap"),
        ProjectedMemory(N, N, 2, weighting="cap"),
    ],
)
@torch.no_grad()
def test_a_query_that_reaches_nothing_stays_and_says_so(memory):
    if isinstance(memory, ProjectedMemory):
        memory.projection.copy_(torch.eye(N))
    patterns = random_patterns((2, N), True).float()
    far = torch.cat([-patterns[:1], flipped(patterns[:1], 8)])
    result = memory.recall(memory.write(patterns), far)
    assert torch.equal(result.values, far)
    assert not result.reached.any()
    assert not result.converged.any()
    assert result.steps.tolist() == [1, 1]
    hetero = memory.recall(memory.write(patterns, torch.ones(2, 3)), far)
    assert torch.equal(hetero.values, torch.zeros(2, 3))
    assert not hetero.reached.any()


def test_two_states_of_hopfield_that_take_turns_do_not_converge():
    memory = HopfieldMemory(2)
    result = memory.recall(memory.write(torch.tensor([[1.0, 1.0]])), torch.tensor([[1.0, -1.0]]), max_steps=9)
    assert not result.converged.any()
    assert result.steps.tolist() == [9]


def test_explicit_neurons_approach_the_intersection():
    """Weights of pairs, over many neurons, are the expected numbers of neurons: within five standard deviations."""
    memory = NeuronMemory(32, 11, 200_000)
    centre = random_patterns((1, 32), True).float()
    for distance in (0, 1, 4, 9):
        other = flipped(centre, distance)
        near = [memory.write(vectors).counts > 0 for vectors in (centre, other)]
        expected = expected_neurons(32, 11, distance, 200_000)
        assert abs(int((near[0] & near[1]).sum()) - expected) < 5 * math.sqrt(expected)


def test_rounded_neurons_have_the_right_mean():
    memory = PatternMemory(N, 6, 3000)
    patterns = torch.ones(4000, N)
    weights, _ = memory._weigh(memory.write(patterns), flipped(patterns[:1], 3))
    expected = expected_neurons(N, 6, 3, 3000)
    assert set(weights.unique().tolist()) == {math.floor(expected), math.ceil(expected)}
    assert weights.mean().item() == pytest.approx(expected, abs=0.05)


def test_intersections_of_a_thousand_bits_neither_overflow_nor_vanish():
    patterns = random_patterns((64, 1000), True).float()
    for memory in (PatternMemory(1000, 447), PatternMemory(1000, 411), PatternMemory(1000, 447, 1e6)):
        result = memory.recall(memory.write(patterns), flipped(patterns, 200))
        assert torch.equal(result.values, patterns)


def test_the_beta_is_the_fitted_one():
    assert SoftmaxMemory(64, 11).beta == fit_beta(64, 11).beta
    assert SoftmaxMemory(64, 11, kind="cap", ddof="paper").beta == fit_beta(64, 11, "cap", "paper").beta
    assert SoftmaxMemory(64, 11, beta=3.0).beta == 3.0
    assert ModernHopfieldMemory(64).beta == 1 / 8


WRONG = [
    (lambda m: m.write([[1.0]]), TypeError, "patterns must be a tensor of real numbers; got list"),
    (lambda m: m.write(torch.ones(N)), ValueError, r"patterns must have the shape \[..., N, 24\]; got \[24\]"),
    (lambda m: m.write(torch.ones(2, 3)), ValueError, r"patterns must have the shape \[..., N, 24\]; got \[2, 3\]"),
    (lambda m: m.write(torch.zeros(2, N)), ValueError, "patterns must hold only -1 and 1; got 0.0"),
    (lambda m: m.write(torch.ones(2, N), torch.ones(3, 4)), ValueError, r"values must be one for each pattern, \[2\]"),
    (
        lambda m: m.write(torch.ones(2, N), torch.ones(2, 4), m.write(torch.ones(1, N))),
        ValueError,
        "values must be given for all patterns or for none; the store holds no values",
    ),
    (lambda m: m.recall(m.write(torch.ones(2, N)), torch.ones(2, N), 0), ValueError, "max_steps must be an int of"),
    (lambda m: m.read(m.write(torch.ones(2, N)), torch.ones(2, N) / 2), ValueError, "queries must hold only -1 and 1"),
    (lambda m: PatternMemory(N, N + 1), ValueError, "radius must be an int in 0..24; got 25"),
    (lambda m: PatternMemory(N, 3, kind="ball"), ValueError, "kind must be one of"),
    (lambda m: SoftmaxMemory(N, 1), ValueError, "radius must be an int in 2..24; got 1"),
    (lambda m: SoftmaxMemory(N, 3, beta=-1.0), ValueError, "beta must be positive and finite; got -1.0"),
    (lambda m: ModernHopfieldMemory(N, "hot"), TypeError, "beta must be a number; got 'hot'"),
    (lambda m: NeuronMemory(N, 3, 0), ValueError, "num_neurons must be an int of at least 1; got 0"),
    (lambda m: ProjectedMemory(N, 8, 2, weighting="sum"), ValueError, "weighting must be one of"),
    (lambda m: ProjectedMemory(N, 8, 2, weighting="cap", learn_beta=True), ValueError, "learn_beta must be False"),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_errors_say_what_was_expected(make, error, message):
    with pytest.raises(error, match=message):
        make(PatternMemory(N, 7))


def test_real_numbers_must_be_finite():
    with pytest.raises(ValueError, match="patterns must hold finite numbers; got nan"):
        ModernHopfieldMemory(N).write(torch.full((1, N), float("nan")))
