"""An episodic memory in every family and head, read and written, trained, saved and generated with."""

import json

import pytest
import tokenizers
import torch
from families import (
    CASES,
    CAUSAL,
    FAMILIES,
    answer,
    is_own,
    loss_of,
    read_all,
    small_episodes,
    states_equal,
    tiny_batch,
    tiny_model,
    tiny_segments,
    with_targets,
)
from transformers import PreTrainedTokenizerFast

import hf_memoria
from hf_memoria import EpisodicMemoryConfig, EpisodicState, MemoriaCache, load_memory, save_memory, wrap
from hf_memoria.cli import main as command_line
from hf_memoria.hub.card import describe, make_card
from hf_memoria.memories.episodic.keep_score import WEIGHT
from hf_memoria.memories.episodic.segment import reading_from

pytestmark = pytest.mark.slow

FORMS = {
    "ids": {},
    "both": {"content": ["ids", "hidden"]},
    "hidden": {"content": ["hidden"], "value_ahead": 0},
    "spread": {"association": "spread"},
    "cofire": {"association": "spread", "association_graph": "cofire", "association_links": 3},
    "shared": {"separate_read": False, "share_attention": True, "sink": 2},
    "shared-keys": {"separate_read": False, "share_attention": True, "sink": 2, "share_content": "keys_values"},
    "shared-and-read": {
        "share_attention": True,
        "layers": [0, 1],
        "share_layers": [1, 2],
        "top_k": None,
        "keep": "fifo",
    },
    # Of three words, "a b a" and "b a a" have one key at first, and rounding says which is among the best.
    "stick": {"weighting": "stick_breaking", "key_window": 2},
    "own-ids": {"query_ids": True},
    "two-layers": {"layers": [0, 2], "top_k": None, "keep": "lifespan"},
}


def episodic(family="GPT2", head="ForCausalLM", form="ids", seed=0, **changes):
    return tiny_model(family, head, small_episodes(**(FORMS[form] | changes)), seed=seed)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_reads_what_it_has_written(family, head, form):
    model = episodic(family, head, form)
    segments = tiny_segments(family, steps=4)
    with torch.no_grad():
        outputs = read_all(model, segments)
        alone = [model(**inputs) for inputs in segments]
        plain = wrap(model, memory=None)(**segments[0])
    assert torch.equal(answer(outputs[0]), answer(plain))
    for output, other in zip(outputs[1:], alone[1:], strict=True):
        assert not torch.allclose(answer(output), answer(other), atol=1e-6)
    state = outputs[-1].memory
    assert isinstance(state, EpisodicState)
    assert state.step.tolist() == [4, 4]
    length = state.positions[0].item() // 4
    assert state.positions.tolist() == [4 * length] * 2
    assert 0 < state.width <= 20
    if family == "ViT":
        assert (state.ids == -1).all()
    elif form in ("ids", "shared", "shared-keys"):
        read = torch.cat([inputs["input_ids"] for inputs in segments], dim=1)
        assert torch.equal(state.ids[..., 0], read.gather(1, state.position).int())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("family", "head"), [(family, heads[1]) for family, heads in FAMILIES.items()])
def test_gradient_reaches_every_parameter_of_it_and_nothing_flows_into_the_next_segment(family, head, form):
    model = episodic(family, head, form).train()
    segments = [with_targets(family, head, inputs) for inputs in tiny_segments(family, steps=3)]
    first = model(**segments[0])
    second = model(**segments[1], memory=first.memory)
    assert not any(value.requires_grad for value in second.memory.tensors().values())
    loss_of(model(**segments[2], memory=second.memory)).backward()
    unreached = [n for n, p in model.named_parameters() if is_own(n) and (p.grad is None or not p.grad.any())]
    assert not unreached


@pytest.mark.parametrize(("family", "head"), CASES)
def test_even_a_first_segment_gives_every_parameter_a_gradient_if_zero(family, head):
    model = episodic(family, head).train()
    loss_of(model(**tiny_batch(family, head))).backward()
    unreached = [name for name, p in model.named_parameters() if is_own(name) and p.grad is None]
    assert not [name for name in unreached if "memory_keep" not in name]  # whose loss comes with the head's


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", CAUSAL)
def test_nothing_earlier_moves_with_a_later_token_or_segment(family, form):
    model = episodic(family, "ForCausalLM", form)
    segments = tiny_segments(family, steps=4)
    with torch.no_grad():
        before = read_all(model, segments)
        for step in (1, 3):
            for place in (0, 5, 8):
                changed = [dict(inputs) for inputs in segments]
                ids = changed[step]["input_ids"].clone()
                ids[:, place] = (ids[:, place] + 7) % 50 + 2
                changed[step]["input_ids"] = ids
                after = read_all(model, changed)
                for number in range(step):
                    assert torch.equal(answer(after[number]), answer(before[number]))
                same = answer(after[step])[:, :place] == answer(before[step])[:, :place]
                assert bool(same.all())
                assert not torch.equal(answer(after[step]), answer(before[step]))


@pytest.mark.parametrize("family", ["GPT2", "Bert"])
def test_rows_do_not_depend_on_each_other_and_padding_is_not_remembered(family):
    model = episodic(family, FAMILIES[family][1])
    segments = tiny_segments(family, steps=3)
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 4:] = 0
    with torch.no_grad():
        memory = alone = None
        for inputs in segments:
            together = model(**inputs, attention_mask=mask, memory=memory)
            one = model(input_ids=inputs["input_ids"][:1, :4], memory=alone)
            torch.testing.assert_close(answer(together)[:1, :4], answer(one), atol=1e-5, rtol=1e-4)
            memory, alone = together.memory, one.memory
    # A model of pieces and one of batches add up attention in another order.
    assert memory[0].text_ids(0) == alone.text_ids(0)
    empty = model(**segments[0], attention_mask=torch.zeros(2, 9, dtype=torch.int64), memory=memory).memory
    assert states_equal(empty, memory)
    reset = model(**segments[0], memory=memory, reset_memory=torch.tensor([True, False])).memory
    assert reset.positions.tolist() == [9, 36]
    assert reset.segment[0, : reset.count[0]].unique().tolist() == [0]


@pytest.mark.parametrize("family", CAUSAL)
def test_embeddings_are_remembered_where_there_are_no_ids(family):
    model = episodic(family, value_ahead=0, key_window=1, keep="fifo")
    first, second = tiny_segments(family, steps=2)
    embed = model.get_input_embeddings()
    with torch.no_grad():
        of_ids = model(**second, memory=model(**first).memory)
        of_vectors = model(**second, memory=model(inputs_embeds=embed(first["input_ids"])).memory)
        mixed = model(inputs_embeds=embed(second["input_ids"]), memory=of_ids.memory).memory
    torch.testing.assert_close(of_vectors.logits, of_ids.logits, atol=1e-5, rtol=1e-4)
    assert (mixed.ids[0, :, 0] == -1).sum() == 9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", CAUSAL)
def test_generation_past_the_window_is_a_loop_over_segments(family, options, form):
    # Text that is generated repeats itself, and of engrams that are alike any may be among the best: the segments of
    # those that are decide what a second read finds. So it reads all here, and the next test takes the best.
    whole = {"read_all_up_to": 20} if form == "spread" else {}
    model = episodic(family, form=form, segment_length=8, **whole)
    ids = tiny_segments(family, steps=1, length=5)[0]["input_ids"]
    output = model.generate(
        ids, max_new_tokens=30, pad_token_id=60, eos_token_id=None, return_dict_in_generate=True, **options
    )
    assert output.sequences.shape == (2, 35)
    memory, read, logits = None, output.sequences, []
    with torch.no_grad():
        for start in range(0, 35, 8):
            one = model(read[:, start : start + 8], memory=memory)
            memory = one.memory
            logits.append(one.logits)
    assert torch.equal(output.memory.ids, memory.ids)
    torch.testing.assert_close(output.memory.usage, memory.usage, atol=1e-4, rtol=1e-3)
    if form == "cofire":
        assert torch.equal(output.memory.partner, memory.partner)
        assert bool((memory.strength > 0).any())
    if "do_sample" in options:
        looped = torch.cat(logits, dim=1)
        cached = model(read, past_key_values=MemoriaCache(model.config)).logits
        torch.testing.assert_close(cached, looped, atol=1e-4, rtol=1e-4)
        assert torch.equal(looped[:, 4:-1].argmax(dim=-1), read[:, 5:])


@pytest.mark.parametrize("family", CAUSAL)
def test_generation_with_a_second_read_takes_the_best_that_segments_do(family):
    model = episodic(family, form="spread", segment_length=8)
    ids = tiny_segments(family, steps=1, length=5)[0]["input_ids"]
    options = {"do_sample": False, "no_repeat_ngram_size": 2, "pad_token_id": 60, "eos_token_id": None}
    output = model.generate(ids, max_new_tokens=30, return_dict_in_generate=True, output_logits=True, **options)
    segments = [{"input_ids": segment} for segment in output.sequences.split(8, dim=1)]
    with torch.no_grad():
        read = read_all(model, segments)
    torch.testing.assert_close(output.memory.usage, read[-1].memory.usage, atol=1e-4, rtol=1e-3)
    logits = torch.cat([one.logits for one in read], dim=1)[:, 4:-1]
    torch.testing.assert_close(torch.stack(output.logits, dim=1), logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("query_ids", [False, True])
def test_rows_of_a_padded_batch_generate_what_they_generate_alone(query_ids):
    model = episodic(segment_length=8, query_ids=query_ids)
    ids = tiny_segments("GPT2", steps=1, length=6)[0]["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 20, "pad_token_id": 60, "eos_token_id": None, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(together[0, 3:], model.generate(ids[:1, 3:], **options)[0])
    assert torch.equal(together[1:], model.generate(ids[1:], **options))


def test_a_prompt_of_embeddings_goes_on_with_ids():
    model = episodic(segment_length=8)
    ids = tiny_segments("GPT2", steps=1, length=6)[0]["input_ids"]
    output = model.generate(
        inputs_embeds=model.get_input_embeddings()(ids),
        max_new_tokens=20,
        pad_token_id=60,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    state = output.memory
    assert state.positions.tolist() == [26, 26]
    kept = state.position[0, : state.count[0]]
    assert torch.equal(state.ids[0, : state.count[0], 0] == -1, kept < 6)


@pytest.mark.parametrize("form", FORMS)
def test_activation_checkpoints_change_no_gradient(form):
    model = episodic(form=form).train()
    first, second = tiny_segments("GPT2", steps=2)
    labels, memory = second["input_ids"], model(**first).memory
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(**second, labels=labels, memory=memory).loss, parameters)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    got = torch.autograd.grad(model(**second, labels=labels, memory=memory).loss, parameters)
    assert all(map(torch.equal, got, expected))
    assert model(**second, labels=torch.full_like(labels, -100), memory=memory).loss == 0


@pytest.mark.parametrize("form", FORMS)
def test_in_bfloat16_it_reads_and_writes(form):
    model = episodic(form=form).to(torch.bfloat16)
    outputs = read_all(model, tiny_segments("GPT2", steps=4))
    assert outputs[-1].logits.dtype == torch.bfloat16
    assert outputs[-1].memory.data.dtype == torch.bfloat16
    assert outputs[-1].memory.usage.dtype == torch.float32
    assert bool(outputs[-1].logits.isfinite().all())


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_and_a_memory_file_come_back(tmp_path, form):
    model = episodic(form=form)
    segments = tiny_segments("GPT2", steps=4)
    memory = read_all(model, segments[:3])[-1].memory
    model.save_pretrained(tmp_path / "model")
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    loaded = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path / "model")
    again = load_memory(tmp_path / "memory.safetensors", loaded)
    assert states_equal(again, memory)
    assert torch.equal(loaded(**segments[3], memory=again).logits, model(**segments[3], memory=memory).logits)


def test_a_plain_checkpoint_gets_initialised_parameters(tmp_path):
    plain = tiny_model("GPT2", "ForCausalLM")
    plain.save_pretrained(tmp_path)
    loaded = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=small_episodes())
    reader = loaded.transformer.h[1].memory
    torch.testing.assert_close(reader.log_sharpness.exp().flatten(), torch.full((4,), 8.0))
    assert reader.key_mix.weight[:, 0].tolist() == [1.0, 0.5, 0.5]
    assert loaded.transformer.memory_keep.bias.item() == -3.0


def test_an_untrained_score_does_not_hold_on_to_what_came_first():
    settings = {"separate_read": False, "share_attention": True, "layers": None, "top_k": None}
    model = episodic("Llama", capacity=36, stm_capacity=8, sink=0, **settings)
    ids = torch.randint(2, 60, (1, 40 * 8), generator=torch.Generator().manual_seed(0))
    memory = read_all(model, [{"input_ids": segment} for segment in ids.split(8, dim=1)])[-1].memory
    old = memory.position[memory.position < 39 * 8]
    assert len(old) == 28
    assert old.double().mean() > 80  # among the first 36 alone, as they once were, it is below 20


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        ({}, [1.25, 0.25]),
        ({"capacity": None}, [1.5, 0.5]),
        ({"keep": "lifespan"}, [1.5, 0.5]),
        ({"keep": "lru"}, [1.25, 0.25]),
    ],
)
def test_attention_counts_by_its_square_where_a_score_is_learned_from_it(settings, counted):
    model = episodic(**settings)
    state = model(torch.tensor([[5, 6]])).memory
    reading = reading_from(model, state, torch.ones(1, 2, dtype=torch.bool), None)
    reading.leave_shared(0, torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]]))
    assert reading.paid().tolist() == [counted]


def test_the_keep_score_learns_what_is_asked_for_and_touches_nothing_else():
    model = episodic().train()
    first, second = tiny_segments("GPT2", steps=2)
    output = model(**second, labels=second["input_ids"], memory=model(**first).memory)
    assert set(output.losses) == {"task", "keep"}
    torch.testing.assert_close(output.loss, output.losses["task"] + WEIGHT * output.losses["keep"])
    output.losses["keep"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {f"transformer.memory_keep.{name}" for name in ("weight", "bias", "by_age.bias")}
    assert not hasattr(episodic(keep="fifo").transformer, "memory_keep")


def test_inspect_and_the_card_tell_of_it(tmp_path, capsys):
    model = episodic()
    memory = model(**tiny_segments("GPT2", steps=1)[0], source=torch.tensor([5, 0])).memory
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    assert command_line(["inspect", str(tmp_path / "memory.safetensors"), "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out).values()
    assert [row["engrams"] for row in summary["rows"]] == [9, 9]
    assert summary["holds"].startswith("the text itself that was read")
    passage = {"source": 5, "position": 0, "length": 9, "text": None}
    assert summary["contents"][0] == {"row": 0, "sources": {"5": 9}, "passages": [passage]}
    assert command_line(["inspect", str(tmp_path / "memory.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "\nholds the text itself that was read" in told
    assert "row 0, engrams by source: 5 9\nrow 1, engrams by source: none 9\n--tokenizer NAME shows the text" in told
    card = str(make_card(model, describe(model, "me/episodic", memory_file="memory.safetensors")))
    assert "an episodic memory" in card
    assert "It holds the text itself that was read" in card


def words_tokenizer(folder):
    """A tokenizer whose words are their ids, with a newline between."""
    words = {f"w{number}": number for number in range(61)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def test_inspect_shows_the_text_where_there_is_a_tokenizer(tmp_path, capsys):
    words_tokenizer(tmp_path / "words")
    model = episodic(capacity=None, keep="fifo")
    first, second = tiny_segments("GPT2", steps=2)
    memory = model(**second, memory=model(**first, source=5).memory, source=6).memory
    path = tmp_path / "memory.safetensors"
    save_memory(memory, path, model.config)
    text = "".join(f"w{token}" for token in second["input_ids"][1].tolist())
    assert command_line(["inspect", str(path), "--tokenizer", str(tmp_path / "words")]) == 0
    told = capsys.readouterr().out
    assert f'row 1, source 6, position 9: "{text}"' in told
    assert "--tokenizer" not in told
    assert command_line(["inspect", str(path), "--tokenizer", str(tmp_path / "words"), "--row", "1", "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out).values()
    assert [passage["text"] for passage in summary["contents"][0]["passages"]][1] == text
    assert command_line(["inspect", str(path), "--tokenizer", str(tmp_path / "nowhere")]) == 1
    assert "--tokenizer must be the folder of a tokenizer" in capsys.readouterr().err
    words_tokenizer(tmp_path)  # beside the file
    assert command_line(["inspect", str(path)]) == 0
    assert f'row 1, source 6, position 9: "{text}"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": "best"}, "keep must be one of 'learned', 'lifespan', 'lru', 'fifo', 'random'; got 'best'"),
        ({"content": ["text"]}, "every item of content must be one of 'ids', 'hidden'; got 'text'"),
        ({"content": []}, "content must name at least one of 'ids', 'hidden', once"),
        ({"key_window": 0}, "key_window must be an integer of at least 1"),
        ({"value_ahead": 2}, "value_ahead must be one of 0, 1; got 2"),
        ({"separate_read": False}, "separate_read or share_attention must be True"),
        ({"exact_distance": 8}, r"exact_distance must be None without share_attention; got 8"),
        (
            {"exact_distance": 0, "share_attention": True},
            r"exact_distance must be .* at least 1 and at most .*; got 0",
        ),
        ({"read_all_up_to": -1}, r"read_all_up_to must be an integer of at least 0 and at most .*; got -1"),
        ({"share_layers": [1]}, r"share_layers must be None without share_attention; got \[1\]"),
        ({"association_graph": "words"}, "association_graph must be one of 'segment', 'cofire', 'both'; got 'words'"),
        ({"association_graph": "both"}, "association_graph must be 'segment' without association.* got 'both'"),
        ({"association_links": 0}, "association_links must be an integer of at least 1"),
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"read_heads": 0}, "read_heads must be an integer of at least 1"),
        ({"usage_decay": 1.0}, "usage_decay must be a finite number of at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_field(settings, message):
    with pytest.raises(ValueError, match=message):
        EpisodicMemoryConfig(**settings)


@pytest.mark.parametrize(("asked", "heads"), [(None, 4), (1, 1), (7, 7)])
def test_a_read_has_few_heads_of_the_backbones_size(asked, heads):
    memory = EpisodicMemoryConfig(layers=[1], read_heads=asked)
    model = tiny_model("Llama", "ForCausalLM", memory, num_attention_heads=8, head_dim=6)
    reader = model.model.layers[1].memory
    assert reader.num_heads == heads
    assert reader.query.weight.shape == (6 * heads, model.config.hidden_size)


@pytest.mark.parametrize("name", ["layers", "share_layers"])
def test_layers_have_to_be_there(name):
    with pytest.raises(ValueError, match=rf"{name} must name blocks below 3, which the backbone has; got \[3\]"):
        episodic(**{name: [3]}, share_attention=True)


def test_an_attention_that_stored_positions_cannot_be_put_into_is_refused():
    settings = small_episodes(share_attention=True)
    with pytest.raises(ValueError, match=r"attention must be None where memory.share_attention is True; got both"):
        tiny_model("GPT2", "ForCausalLM", settings, attention=hf_memoria.LwpfAttentionConfig())
    model = tiny_model("GPT2", "ForCausalLM", settings)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attn_implementation must stay 'memoria_shared'"):
        model(**tiny_segments("GPT2", steps=1)[0])


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Bert", "ViT"])
@torch.no_grad()
def test_shared_attention_is_softmax_over_stored_and_own_positions(family, top_k):
    """Weights of the attention, and the same output, whether they are asked for or not."""
    head = FAMILIES[family][1]
    model = episodic(family, head, "shared", top_k=top_k, share_layers=[1], keep="fifo", capacity=None)
    segments = tiny_segments(family, steps=4)
    memory = read_all(model, segments[:3])[-1].memory
    plain = model(**segments[3], memory=memory)
    shown = model(**segments[3], memory=memory, output_attentions=True)
    torch.testing.assert_close(answer(shown), answer(plain), atol=1e-5, rtol=1e-4)
    weights = shown.attentions[1]
    stored = memory.width
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:3]))
    assert weights.shape[-1] == stored + shown.attentions[0].shape[-1]
    seen = (weights[..., :stored] > 0).sum(dim=-1)
    always = (memory.age == 1) | (memory.position < 2)
    assert bool((seen == (stored if top_k is None else int(always[0].sum()) + top_k)).all())
