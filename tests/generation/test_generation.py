"""generate() past the window, token for token what a loop over segments without a cache gives."""

import warnings

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

pytestmark = pytest.mark.slow

SEGMENT = 8


@pytest.mark.parametrize("length", [1, 3, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 43])
def test_greedy_is_the_loop(length, model, prompts, by_loop, generate, same_memory):
    prompt = prompts(length, seed=length)
    logits = []
    expected, memory = by_loop(model, prompt[0], new=20, logits=logits)
    for use_cache in (True, False) if length < 2 * SEGMENT else (True,):
        output = generate(model, prompt, use_cache=use_cache, output_logits=True)
        assert output.sequences[0].tolist() == expected
        assert torch.allclose(torch.cat(output.logits), torch.stack(logits), atol=1e-4)
        same_memory(output.memory, memory)
    assert torch.stack(logits).std(dim=0).mean() > 0.1  # a model that says the same at every step shows nothing


@pytest.mark.parametrize("new", [1, SEGMENT - 5, SEGMENT - 4, 3 * SEGMENT - 4])
def test_whatever_the_number_of_new_tokens(new, model, prompts, by_loop, generate, same_memory):
    prompt = prompts(5)
    output = generate(model, prompt, new=new)
    expected, memory = by_loop(model, prompt[0], new=new)
    assert output.sequences[0].tolist() == expected
    same_memory(output.memory, memory)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_a_decoder_of_any_family_generates_past_its_window(
    family, model, prompts, padded, by_loop, generate, same_memory
):
    rows = [prompts(length, seed=length)[0] for length in (5, 19)]
    ids, mask = padded(rows, pad=model.config.pad_token_id)
    output = generate(model, ids, attention_mask=mask)
    for row, prompt in enumerate(rows):
        expected, memory = by_loop(model, prompt, new=20)
        assert output.sequences[row, 19 - len(prompt) :].tolist() == expected
        same_memory(output.memory, memory, rows=[row])


def test_segments_may_be_shorter_than_the_window(family, build_decoder, prompts, by_loop, generate, same_memory):
    model = build_decoder(family, {"segment_length": 3, "initial_lifespan": 9})
    prompt = prompts(11)
    output = generate(model, prompt)
    expected, memory = by_loop(model, prompt[0], new=20)
    assert output.sequences[0].tolist() == expected
    assert output.past_key_values.columns <= 3
    same_memory(output.memory, memory)


def test_memory_changes_what_is_generated(model, prompts, generate):
    prompt = prompts(20)
    knowing = generate(model, prompt).sequences[0, 20:]
    forgetful = generate(model, prompt[:, 16:]).sequences[0, 4:]
    assert not torch.equal(knowing, forgetful)


def test_sampling_is_the_loops(model, prompts, by_loop, generate):
    prompt = prompts(11)

    def draw(logits):
        return int(torch.multinomial(logits.softmax(-1)[None], 1))

    torch.manual_seed(5)
    expected, _ = by_loop(model, prompt[0], new=20, choose=draw)
    torch.manual_seed(5)
    output = generate(model, prompt, do_sample=True, top_k=0)
    assert output.sequences[0].tolist() == expected


def test_rows_of_a_padded_batch_generate_what_they_do_alone(model, prompts, padded, by_loop, generate, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (3, 8, 9, 15, 26)]
    ids, mask = padded(rows)
    output = generate(model, ids, attention_mask=mask)
    for row, prompt in enumerate(rows):
        expected, memory = by_loop(model, prompt, new=20)
        assert output.sequences[row, 26 - len(prompt) :].tolist() == expected
        same_memory(output.memory, memory, rows=[row])


def test_padding_at_any_place_counts_for_nothing(model, prompts, by_loop, generate, same_memory):
    prompt = prompts(23)
    mask = torch.ones_like(prompt)
    mask[0, [0, 1, 7, 8, 9, 15]] = 0
    output = generate(model, prompt, attention_mask=mask)
    expected, memory = by_loop(model, prompt[0][mask[0].bool()], new=20)
    assert output.sequences[0, 23:].tolist() == expected[17:]
    same_memory(output.memory, memory)


def token_that_ends_rows_far_apart(written):
    """Return a token that rows write first at steps more than a segment apart."""
    for token in sorted({token for row in written for token in row}):
        steps = [row.index(token) if token in row else len(row) for row in written]
        if min(steps) + SEGMENT < max(steps) - 1:
            return token
    raise AssertionError("rows write too much of the same")


def test_rows_end_by_themselves_and_padding_is_not_remembered(model, prompts, padded, by_loop, generate, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (5, 15, 9)]
    ends = token_that_ends_rows_far_apart([by_loop(model, row, new=30)[0][len(row) :] for row in rows])
    ids, mask = padded(rows)
    output = generate(model, ids, new=30, attention_mask=mask, eos_token_id=ends, pad_token_id=60)
    lengths = []
    for row, prompt in enumerate(rows):
        expected, memory = by_loop(model, prompt, new=30, stop=ends)
        lengths.append(len(expected) - len(prompt))
        written = output.sequences[row, 15 - len(prompt) :].tolist()
        assert written == expected + [60] * (len(written) - len(expected))
        same_memory(output.memory, memory, rows=[row])
    assert min(lengths) + SEGMENT < max(lengths)


def test_a_prompt_in_chunks_is_the_same(model, prompts, padded, generate, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (26, 19)]
    ids, mask = padded(rows)
    whole = generate(model, ids, attention_mask=mask)
    for size in (3, 8, 10):
        chunks = generate(model, ids, attention_mask=mask, prefill_chunk_size=size)
        assert torch.equal(chunks.sequences, whole.sequences)
        for row in range(2):
            same_memory(chunks.memory[row], whole.memory[row])


def test_a_prompt_of_embeddings_is_the_same(model, prompts, padded, generate, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (26, 19)]
    ids, mask = padded(rows)
    for beams in (1, 2):
        expected = generate(model, ids, attention_mask=mask, num_beams=beams)
        embeds = model.get_input_embeddings()(ids)
        got = generate(model, ids[:, :0], attention_mask=mask, inputs_embeds=embeds, num_beams=beams)
        assert torch.equal(got.sequences, expected.sequences[:, 26:])
        for row in range(2):
            same_memory(got.memory[row], expected.memory[row])


@pytest.mark.parametrize("family", ["GPT2"])
def test_token_types_go_with_their_tokens(model, prompts, generate, same_memory):
    prompt = prompts(19)
    types = prompts(19, seed=1)
    fast, slow = (generate(model, prompt, token_type_ids=types, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(fast.sequences, slow.sequences)
    assert not torch.equal(fast.sequences, generate(model, prompt).sequences)
    same_memory(fast.memory, slow.memory)


def test_lengths_and_processors_are_those_of_generate(model, prompts, generate):
    prompt = prompts(20)
    free = generate(model, prompt).sequences
    assert generate(model, prompt, new="default", max_length=35).sequences.shape[1] == 35
    end = int(free[0, 24])
    short = generate(model, prompt, eos_token_id=end).sequences
    long = generate(model, prompt, eos_token_id=end, min_length=30).sequences
    assert short.shape[1] < 30 <= long.shape[1]
    assert torch.equal(long, generate(model, prompt, eos_token_id=end, min_length=30, use_cache=False).sequences)
    different = generate(model, prompt, repetition_penalty=1.5).sequences
    assert not torch.equal(different, free)


@pytest.mark.parametrize("length", [3, 20])
def test_past_the_window_nothing_warns(length, model, prompts, caplog):
    prompt = prompts(length)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, eos_token_id=None)
    assert output.shape[1] == length + 20
    assert not caplog.records


def test_the_default_length_is_not_cut_at_the_window(model, prompts):
    prompt = prompts(7)
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=None, do_sample=False)
    assert output.shape[1] == 27


class Listener(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_tokens_stream(model, prompts, generate):
    listener, prompt = Listener(), prompts(20)
    output = generate(model, prompt, streamer=listener)
    assert listener.tokens == output.sequences[0].tolist()
    assert listener.ended


def test_scores_logits_and_hidden_states_are_those_of_the_tokens(model, prompts, generate):
    prompt = prompts(20)
    options = {"output_scores": True, "output_logits": True, "output_hidden_states": True}
    output = generate(model, prompt, new=20, **options)
    slow = generate(model, prompt, new=20, use_cache=False, output_logits=True)
    assert len(output.logits) == 20
    for one, other, score in zip(output.logits, slow.logits, output.scores, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert torch.equal(score, one)
    assert [len(step) for step in output.hidden_states] == [3] * 20
    assert output.hidden_states[0][-1].shape == (1, 20, 32)
    assert output.hidden_states[1][-1].shape == (1, 1, 32)


def test_attentions_are_those_of_the_segment(family, build_decoder, prompts, generate):
    model = build_decoder(family, attn_implementation="eager")
    output = generate(model, prompts(5), new=7, output_attentions=True)
    assert [step[0].shape[-1] for step in output.attentions] == [5, 6, 7, 8, 1, 2, 3]
    with pytest.raises(ValueError, match="output_attentions must be False for tokens of 2 segments"):
        generate(model, prompts(9), output_attentions=True)


def test_a_model_without_memory_generates_as_its_backbone(build, plain_config, prompts, generate):
    from transformers import GPT2LMHeadModel

    model = build(without_memory=True)
    stock = GPT2LMHeadModel(plain_config()).eval()
    stock.load_state_dict(model.state_dict())
    for options in ({}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}, {"cache_implementation": "static"}):
        got, expected = (generate(m, prompts(4), new=10, **options) for m in (model, stock))
        assert torch.equal(got.sequences, expected.sequences)
        assert type(got) is type(expected)
