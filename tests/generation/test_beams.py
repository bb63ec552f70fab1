"""Beam search: memory goes where its beam goes."""

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("length", [3, 8, 19])
def test_beams_are_those_of_a_search_without_cache(length, model, prompts, generate):
    prompt = prompts(length, seed=length)
    options = {"num_beams": 3, "output_scores": True, "num_return_sequences": 3}
    fast = generate(model, prompt, **options)
    slow = generate(model, prompt, use_cache=False, **options)
    assert torch.equal(fast.sequences, slow.sequences)
    assert torch.allclose(fast.sequences_scores, slow.sequences_scores, atol=1e-5)
    assert torch.equal(fast.beam_indices, slow.beam_indices)
    # Beams have to change places for this to say anything.
    assert len(fast.beam_indices.unique()) > 1


def test_scores_are_the_loops_log_probabilities(model, prompts, by_loop, generate, same_memory):
    prompt = prompts(11)
    output = generate(model, prompt, num_beams=4, num_return_sequences=2, length_penalty=1.0, output_scores=True)
    for row in range(2):
        left, logits = output.sequences[row, 11:].tolist(), []
        follow = iter(left)
        _, memory = by_loop(
            model, prompt[0], new=20, choose=lambda _, following=follow: next(following), logits=logits
        )
        scores = torch.stack(logits).log_softmax(-1)[torch.arange(20), left]
        assert torch.allclose(output.sequences_scores[row], scores.sum() / 20, atol=1e-4)
        same_memory(output.memory, memory, rows=[row])


def test_rows_of_a_padded_batch_are_searched_as_alone(model, prompts, padded, generate, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (3, 11, 16)]
    ids, mask = padded(rows)
    together = generate(model, ids, attention_mask=mask, num_beams=2)
    for row, prompt in enumerate(rows):
        alone = generate(model, prompt[None], num_beams=2)
        assert torch.equal(together.sequences[row, 16:], alone.sequences[0, len(prompt) :])
        same_memory(together.memory, alone.memory, rows=[row])


def test_beams_that_end_are_remembered_to_their_end(model, prompts, by_loop, generate, same_memory):
    prompt, differ = prompts(6), False
    # Any token may be the one that ends; take one that beams write at different steps.
    for end in generate(model, prompt, num_beams=3).sequences[0, 6:].unique().tolist():
        output = generate(model, prompt, num_beams=3, num_return_sequences=3, eos_token_id=end, pad_token_id=60)
        lengths = (output.beam_indices >= 0).sum(dim=-1) + 6
        differ = bool(lengths.min() < lengths.max())
        if differ:
            break
    assert differ
    for row, length in enumerate(lengths.tolist()):
        assert (output.sequences[row, length:] == 60).all()
        _, memory = by_loop(model, output.sequences[row, :length], new=0)
        same_memory(output.memory, memory, rows=[row])


def test_sampling_beams_and_several_sequences_use_the_cache_rightly(model, prompts, generate):
    prompt = prompts(10, rows=2)
    for options in ({"num_beams": 3}, {"num_return_sequences": 3}):
        found = []
        for use_cache in (True, False):
            torch.manual_seed(1)
            found.append(generate(model, prompt, do_sample=True, top_k=0, use_cache=use_cache, **options))
        assert torch.equal(found[0].sequences, found[1].sequences)
        assert found[0].memory.batch_size == len(found[0].sequences)
