"""A projection that is learned by gradient through the read."""

import pytest
import torch

from hf_memoria.sdm import ProjectedMemory, fit_beta, train_projection


def correlated(count=24, n=40):
    """Patterns that share most of what they are: noise hides what tells them apart."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, n, generator=generator) * 3 + torch.randn(count, n, generator=generator)


@pytest.fixture
def perturb():
    generator = torch.Generator().manual_seed(1)
    return lambda patterns: patterns + torch.randn(patterns.shape, generator=generator)


def retrieved(memory, patterns, queries):
    found = memory.recall(memory.write(patterns), queries, max_steps=20).values
    return (torch.cdist(found, patterns).argmin(dim=-1) == torch.arange(len(patterns))).float().mean().item()


@pytest.mark.parametrize("learn_beta", [False, True])
def test_training_makes_memories_that_can_be_told_apart(perturb, learn_beta):
    patterns = correlated()
    memory = ProjectedMemory(40, 32, 6, learn_beta=learn_beta)
    queries = perturb(patterns)
    before, beta = retrieved(memory, patterns, queries), memory.beta.item()
    losses = train_projection(memory, patterns, perturb, steps=80)
    assert len(losses) == 80
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert retrieved(memory, patterns, queries) > before
    assert (memory.beta.item() != beta) == learn_beta
    assert beta == pytest.approx(fit_beta(32, 6).beta)


@pytest.mark.parametrize("weighting", ["softmax", "binary", "cap"])
def test_gradient_reaches_the_projection_through_keys_and_queries(weighting):
    memory = ProjectedMemory(6, 12, 5, weighting=weighting).double()
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    queries = patterns + 0.2 * torch.randn(4, 6, generator=generator, dtype=torch.float64)

    def loss(projection):
        parameters = {"projection": projection, "log_beta": memory.log_beta.detach()}
        old = {name: getattr(memory, name) for name in parameters}
        for name in parameters:
            del memory._parameters[name]
            setattr(memory, name, parameters[name])
        found = memory.read(memory.write(patterns), queries).values
        for name, value in old.items():
            delattr(memory, name)
            memory.register_parameter(name, value)
        return found.square().sum()

    assert torch.autograd.gradcheck(loss, memory.projection.detach().clone().requires_grad_(), eps=1e-7, atol=1e-5)


def test_a_learned_memory_is_a_module():
    memory = ProjectedMemory(6, 12, 5, learn_beta=True)
    assert {name for name, _ in memory.named_parameters()} == {"projection", "log_beta"}
    other = ProjectedMemory(6, 12, 5, learn_beta=True, seed=1)
    assert not torch.equal(memory.projection, other.projection)
    other.load_state_dict(memory.state_dict())
    patterns = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    one, two = (m.read(m.write(patterns), patterns).values for m in (memory, other))
    assert torch.equal(one, two)
