"""Cosine to Hamming distance and back."""

import pytest
import torch

from hf_memoria.sdm import cosine_to_hamming, hamming_to_cosine


@pytest.mark.parametrize("n", [1, 7, 10, 64, 1000, 4999])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_there_and_back(n, dtype):
    distances = torch.arange(n + 1)
    assert torch.equal(cosine_to_hamming(hamming_to_cosine(distances, n).to(dtype), n), distances)
    assert [cosine_to_hamming(hamming_to_cosine(d_v, n), n) for d_v in (0, n // 3, n)] == [0, n // 3, n]


def test_cosines_of_binary_vectors():
    bits = torch.randint(0, 2, (50, 64), generator=torch.Generator().manual_seed(0))
    signs = (2 * bits - 1).float()
    cosines = signs @ signs.T / 64
    distances = (bits.unsqueeze(1) != bits.unsqueeze(0)).sum(-1)
    assert torch.equal(cosine_to_hamming(cosines, 64), distances)
    assert torch.allclose(hamming_to_cosine(distances, 64), cosines.double())


def test_between_two_distances_the_lower_one():
    assert cosine_to_hamming([1.0, 0.9688, 0.96874, 0.94, 0.5, -1.0], 64).tolist() == [0, 0, 1, 1, 16, 64]


def test_python_numbers_stay_python_numbers():
    assert type(cosine_to_hamming(0.5, 64)) is int
    assert type(hamming_to_cosine(16, 64)) is float
    assert cosine_to_hamming(torch.zeros(2, 3), 8).shape == (2, 3)
    assert hamming_to_cosine(1.5, 3) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_past_the_end_is_cut_off(dtype):
    beyond = torch.tensor([1 + torch.finfo(dtype).eps], dtype=dtype)
    assert beyond.item() > 1
    assert cosine_to_hamming(torch.cat([beyond, -beyond]), 16).tolist() == [0, 16]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"cosine must be in -1\.\.1; got 1\.0001"):
        cosine_to_hamming(1.0001, 64)
    with pytest.raises(TypeError, match="cosine must be a number or numbers; got None"):
        cosine_to_hamming(None, 64)
    with pytest.raises(ValueError, match="n must be an int of at least 1; got 0"):
        cosine_to_hamming(0.5, 0)
    with pytest.raises(ValueError, match=r"distance must be in 0\.\.64; got 65"):
        hamming_to_cosine([3, 65], 64)
    with pytest.raises(ValueError, match=r"distance must be in 0\.\.64; got -1"):
        hamming_to_cosine(-1, 64)
