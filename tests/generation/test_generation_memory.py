"""The state that goes into generate() and comes out, the cache that holds it meanwhile, and what is refused."""

import copy

import pytest
import torch
from transformers import DynamicCache

from hf_memoria import EngramState, MemoriaCache, TokenMemoryConfig, TokenState

pytestmark = pytest.mark.slow


def read_segments(model, tokens, memory=None):
    length = model.config.segment_length
    for start in range(0, tokens.shape[1], length):
        memory = model(tokens[:, start : start + length], memory=memory, use_cache=False).memory
    return memory


def test_memory_goes_in_and_comes_out(model, prompts, by_loop, generate, same_memory, same_state):
    before = read_segments(model, prompts(35, seed=1))
    kept = copy.deepcopy(before)
    prompt = prompts(5)
    output = generate(model, prompt, memory=before)
    expected, memory = by_loop(model, prompt[0], new=20, memory=before)
    assert output.sequences[0].tolist() == expected
    assert expected != by_loop(model, prompt[0], new=20)[0]
    assert same_state(before, kept)
    same_memory(output.memory, memory)
    same_memory(output.memory, read_segments(model, output.sequences, before))
    second = prompts(11, seed=2)
    again = generate(model, second, memory=output.memory)
    expected, memory = by_loop(model, second[0], new=20, memory=memory)
    assert again.sequences[0].tolist() == expected
    same_memory(again.memory, memory)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}, {"do_sample": True}])
def test_generating_twice_from_one_memory_gives_the_same_and_leaves_it_as_it_was(
    options, model, prompts, generate, same_state
):
    before = read_segments(model, prompts(35, rows=2))
    kept, prompt = copy.deepcopy(before), prompts(13, rows=2, seed=3)
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        outputs.append(generate(model, prompt, memory=before, **options))
        assert same_state(before, kept)
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert same_state(outputs[0].memory, outputs[1].memory)


def test_rows_may_start_anew(model, prompts, generate):
    before = read_segments(model, prompts(35, rows=2))
    prompt = prompts(5, rows=2, seed=3)
    output = generate(model, prompt, memory=before, reset_memory=torch.tensor([False, True]))
    assert torch.equal(output.sequences[0], generate(model, prompt[:1], memory=before[0]).sequences[0])
    assert torch.equal(output.sequences[1], generate(model, prompt[1:]).sequences[0])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_memory_expands_with_the_rows(options, model, prompts, generate):
    before = read_segments(model, prompts(35, rows=2))
    prompt = prompts(5, rows=2, seed=3)
    torch.manual_seed(0)
    output = generate(model, prompt, memory=before, **options)
    torch.manual_seed(0)
    slow = generate(model, prompt, memory=before, use_cache=False, **options)
    assert torch.equal(output.sequences, slow.sequences)
    assert output.memory.step.tolist() == [5 + 4] * len(output.sequences)


@pytest.mark.parametrize(
    ("rows", "size", "made", "message"),
    [
        (2, 32, {}, "memory must have a row for each of the batch's 1; got 2"),
        (1, 8, {}, "memory must have the model's hidden size 32; got 8"),
        (1, 32, {"dtype": torch.float64}, "memory must have the dtype torch.float32; got"),
        (1, 32, {"device": "meta"}, "memory must have the device cpu; got meta"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(rows, size, made, message, model, prompts, generate):
    settings = model.config.memory
    if isinstance(settings, TokenMemoryConfig):
        state = TokenState.empty(rows, settings.num_tokens, size, **made)
    else:
        state = EngramState.empty(rows, size, **made)
    with pytest.raises(ValueError, match=message):
        generate(model, prompts(5), memory=state)


def test_a_returned_cache_goes_on_within_its_segment(model, prompts, generate):
    prompt = prompts(11)
    whole = generate(model, prompt, new=20).sequences
    first = generate(model, prompt, new=7)
    rest = generate(model, first.sequences, new=13, past_key_values=first.past_key_values)
    assert torch.equal(rest.sequences, whole)


def test_a_returned_cache_takes_more_of_the_prompt(model, prompts, padded, generate, by_loop):
    rows = [prompts(length, seed=length)[0] for length in (11, 7)]
    ids, mask = padded(rows)
    first = generate(model, ids, new=8, attention_mask=mask)
    more = prompts(15, rows=2, seed=9)
    ids = torch.cat([first.sequences, more], 1)
    mask = torch.cat([mask, torch.ones(2, 23, dtype=torch.long)], 1)
    for beams in (1, 2):
        cache = copy.deepcopy(first.past_key_values)
        if beams > 1:
            cache.batch_repeat_interleave(beams)
        output = generate(model, ids, attention_mask=mask, past_key_values=cache, num_beams=beams)
        expected = generate(model, ids, attention_mask=mask, num_beams=beams)
        assert torch.equal(output.sequences, expected.sequences)
        assert torch.equal(output.memory.step, expected.memory.step)
        torch.testing.assert_close(output.memory.data, expected.memory.data, atol=1e-4, rtol=1e-4)


def test_a_cache_in_hand_reads_any_number_of_tokens_a_call(model, prompts, padded, same_memory):
    rows = [prompts(length, seed=length)[0] for length in (45, 31)]
    ids, mask = padded(rows)
    cache, logits, start = MemoriaCache(model.config), [], 0
    for size in (1, 7, 10, 2, 20, 5):
        chunk = slice(start, start + size)
        output = model(ids[:, chunk], attention_mask=mask[:, : start + size], past_key_values=cache)
        assert output.past_key_values is cache
        assert output.memory is cache.memory
        assert cache.columns <= 8
        logits.append(output.logits)
        start += size
    for row, prompt in enumerate(rows):
        memory, expected = None, []
        for segment in prompt.split(8):
            expected.append(model(segment[None], memory=memory))
            memory = expected[-1].memory
        whole = torch.cat([output.logits for output in expected], dim=1)[0]
        assert torch.allclose(torch.cat(logits, dim=1)[row, 45 - len(prompt) :], whole, atol=1e-4)
        same_memory(cache.finished_memory(), memory, rows=[row])
    assert cache.memory.step.tolist() == [5, 3]


def test_a_cache_starts_from_a_state_once(model, prompts):
    before = read_segments(model, prompts(40))
    cache = MemoriaCache(model.config)
    first = model(prompts(5), memory=before, past_key_values=cache)
    expected = model(prompts(5), memory=before)
    assert torch.allclose(first.logits, expected.logits, atol=1e-5)
    with pytest.raises(ValueError, match="memory must be None with a MemoriaCache that is in use"):
        model(prompts(1), memory=before, past_key_values=cache)
    with pytest.raises(ValueError, match="reset_memory must be None"):
        model(prompts(1), reset_memory=torch.tensor([True]), past_key_values=cache)
    with pytest.raises(ValueError, match="memory must have a row for each of the batch's 2"):
        model(prompts(1, rows=2), past_key_values=cache)


def test_a_step_within_a_segment_reminds_of_nothing_anew(model, prompts, generate, monkeypatch):
    from hf_memoria.memories.engram import segment as engram_step
    from hf_memoria.memories.token.encoder import TokenMemory

    calls = []
    of_tokens = isinstance(model.config.memory, TokenMemoryConfig)
    owner, name = (TokenMemory, "starting_tokens") if of_tokens else (engram_step, "remind")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    model.generate(prompts(10), max_new_tokens=22, do_sample=False, eos_token_id=None)
    assert len(calls) == 4


@torch.no_grad()
def test_a_copy_goes_its_own_way(model, prompts, same_state):
    cache = MemoriaCache(model.config)
    model(prompts(13), past_key_values=cache)
    twin, deep, finished = cache.copy(), copy.deepcopy(cache), cache.finished_memory()
    model(prompts(15, seed=4), past_key_values=cache)
    for other in (twin, deep):
        assert same_state(other.finished_memory(), finished)
        assert other.get_seq_length() == 13
    assert cache.get_seq_length() == 28
    cache.reset()
    assert cache.get_seq_length() == cache.columns == 0
    assert cache.memory is None


def test_the_base_model_takes_the_cache_as_well(build, prompts):
    prompt, model, base = prompts(40), build(), build("Model")
    base.load_state_dict(model.transformer.state_dict())
    cache = MemoriaCache(model.config)
    hidden = base(prompt, past_key_values=cache).last_hidden_state
    expected = model(prompt, past_key_values=MemoriaCache(model.config)).logits
    assert torch.allclose(model.lm_head(hidden), expected, atol=1e-5)
    assert cache.memory.step.tolist() == [2]


def test_a_long_generation_holds_one_segment(model, prompts, padded):
    rows = [prompts(length, seed=length)[0] for length in (3, 15)]
    ids, mask = padded(rows)
    widest = []
    original = MemoriaCache.extend

    class Watched(MemoriaCache):
        def extend(self, *args):
            original(self, *args)
            widest.append(
                (self.columns, self.layers[0].keys.shape[2], self.left["hidden"].shape[1], self.memory.data.shape[1])
            )

    cache = Watched(model.config)
    model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=400, eos_token_id=None)
    columns, keys, hidden, capacity = (max(values) for values in zip(*widest, strict=True))
    tokens = cache.num_prefix
    assert columns == hidden == 8
    assert keys == 8 + tokens
    assert capacity == (tokens or 64)
    assert cache.memory.step.tolist() == [402 // 8, 414 // 8]


@torch.no_grad()
def test_ten_thousand_tokens_of_a_model_with_128_positions(build_decoder):
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 1, "n_positions": 128}
    # What rounding adds grows with every segment that is read; in float32 tokens may differ after some fifty of them.
    model, held = build_decoder("GPT2", **sizes).double(), set()

    class Watched(MemoriaCache):
        def extend(self, *args):
            super().extend(*args)
            held.add((self.columns, self.layers[0].keys.nbytes, self.left["hidden"].nbytes, self.memory.capacity))

    prompt, cache = torch.randint(2, 60, (1, 20), generator=torch.Generator().manual_seed(0)), Watched(model.config)
    tokens = model.generate(
        prompt, past_key_values=cache, max_new_tokens=10_000, do_sample=False, eos_token_id=None, pad_token_id=60
    )
    assert tokens.shape == (1, 10_020)
    assert max(columns for columns, *_ in held) == 128
    keys = 128 * 16 * 8
    assert max(size for _, size, *_ in held) == max(size for *_, size, _ in held) == keys
    assert max(capacity for *_, capacity in held) == 64
    # What a loop over segments without a cache would have chosen.
    memory = None
    for start in range(0, 10_020, 128):
        output = model(tokens[:, start : start + 128], memory=memory, use_cache=False)
        memory, following = output.memory, tokens[0, start + 1 : start + 129]
        chosen = output.logits[0].argmax(-1)[: len(following)]
        unknown = max(20 - start - 1, 0)
        assert torch.equal(chosen[unknown:], following[unknown:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cache_implementation": "static"},
            "cache_implementation must be None or 'dynamic' with memory; got 'static'",
        ),
        ({"cache_implementation": "offloaded"}, "cache_implementation must be None or 'dynamic'"),
        ({"prompt_lookup_num_tokens": 3}, "generation mode must be one of"),
        ({"guidance_scale": 1.5}, "guidance_scale must be None or 1"),
        ({"past_key_values": DynamicCache()}, "past_key_values must be a MemoriaCache or None"),
        ({"memory": "past"}, "memory must be an? (EngramState|TokenState) or None; got str"),
        ({"reset_memory": [True]}, "reset_memory must be a bool tensor"),
    ],
)
def test_what_cannot_be_is_refused(options, message, model, prompts, generate):
    with pytest.raises((ValueError, TypeError), match=message):
        generate(model, prompts(5), **options)


def test_what_a_cache_cannot_do_is_refused(model, build, plain_config, prompts, generate):
    cache = MemoriaCache(model.config)
    model(prompts(5), past_key_values=cache)
    with pytest.raises(ValueError, match="tokens_to_remove must be of another cache"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="memory must be None with past_key_values"):
        generate(model, prompts(5), past_key_values=cache, memory=EngramState.empty(1, 32))
    with pytest.raises(ValueError, match="use_cache must be True"):
        generate(model, prompts(5), past_key_values=cache, use_cache=False)
    with pytest.raises(ValueError, match="labels must be None"):
        model(prompts(5), labels=prompts(5), past_key_values=cache)
    with pytest.raises(ValueError, match="config must be of a model with memory"):
        MemoriaCache(plain_config())
    with pytest.raises(ValueError, match="must have been read with"):
        MemoriaCache(model.config).finished_memory()
    with pytest.raises(ValueError, match="past_key_values must not be a MemoriaCache"):
        build("ForTokenClassification")(prompts(5), past_key_values=MemoriaCache(model.config))
    with pytest.raises(ValueError, match="continuous batching"):
        model.generate_batch([[1, 2, 3]])
    with pytest.raises(ValueError, match="assistant_model must have no memory"):
        build(without_memory=True).generate(
            prompts(5), assistant_model=model, max_new_tokens=4, attention_mask=torch.ones(1, 5)
        )


def test_a_checkpointed_forward_refuses_the_cache(build, prompts):
    model = build().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(ValueError, match="past_key_values must be None where activations are checkpointed"):
        model(prompts(5), past_key_values=MemoriaCache(model.config))
