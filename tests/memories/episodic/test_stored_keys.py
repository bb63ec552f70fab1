"""A store of keys and values reads as one of inputs does, in fewer bytes; what it cannot turn is refused."""

import copy
import gc
import weakref

import pytest
import torch
import transformers
from accelerate import cpu_offload
from families import states_equal
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from hf_memoria import EpisodicMemoryConfig, load_memory, save_memory, wrap
from hf_memoria.backbones.tree import NotTakenError
from hf_memoria.memories.episodic.stored_keys import Turn
from hf_memoria.memories.episodic.turn_trial import try_turn
from hf_memoria.memories.shared.state_files import write_state
from hf_memoria.models.memory_files import describe_memory

SHARED = {"separate_read": False, "share_attention": True, "layers": None}
KEYS = SHARED | {"share_content": "keys_values"}

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 256}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}

BACKBONES = {
    "llama": ("Llama", {}),
    "yarn": ("Llama", {"rope_parameters": YARN}),
    "norms of keys": ("Qwen3", {"head_dim": 16}),
    "windows": (
        "Gemma3",
        {"head_dim": 8, "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "some layers not turned": ("SmolLM3", {"no_rope_layers": [1, 0], "pad_token_id": 0}),
    "a part of a head, by twos": ("Glm", {"head_dim": 8, "partial_rotary_factor": 0.5, "pad_token_id": 0}),
    "a part of a head": ("StableLm", {"partial_rotary_factor": 0.5}),
    "learned positions": ("GPT2", {}),
}
"""Ways in which backbones make and turn keys."""


def stock(name, **changes):
    torch.manual_seed(0)
    family, settings = BACKBONES[name]
    sizes = {key: value for key, value in SMALL.items() if family != "GPT2"}
    sizes = sizes or {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 256}
    config_class = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    config = config_class(**{**sizes, **settings, **changes, "initializer_range": 0.2})
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return getattr(transformers, name)(config).eval()


def read(model, segments, mask=None):
    memory, logits = None, []
    with torch.no_grad():
        for ids in segments:
            output = model(input_ids=ids, memory=memory, attention_mask=mask)
            memory = output.memory
            logits.append(output.logits)
    return torch.stack(logits), memory


def both(backbone, **settings):
    settings = {"segment_length": 8, "capacity": 30, "stm_capacity": 8} | settings
    return tuple(wrap(backbone, memory=EpisodicMemoryConfig(**(form | settings))).eval() for form in (SHARED, KEYS))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "settings", [{"keep": "fifo", "top_k": 5}, {"keep": "learned", "top_k": None}], ids=lambda s: s["keep"]
)
def test_it_reads_what_a_store_of_inputs_does(name, settings):
    of_inputs, of_keys = both(stock(name), **settings)
    segments = torch.randint(1, 64, (6, 2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[1, :3] = 0
    expected, inputs = read(of_inputs, segments, mask)
    found, keys = read(of_keys, segments, mask)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    alone, _ = read(of_inputs, segments[-1:], mask)
    assert (found[-1] - alone[0]).abs().max() > 1e-2
    assert torch.equal(inputs.position, keys.position)
    text = torch.cat(list(segments), dim=1)
    told = [model.generate(text, max_new_tokens=20, do_sample=False, pad_token_id=0) for model in (of_inputs, of_keys)]
    assert torch.equal(*told)


def test_it_takes_the_bytes_of_keys_and_values():
    of_inputs, of_keys = both(stock("llama", num_key_value_heads=1), capacity=None)
    segments = torch.randint(1, 64, (3, 2, 8), generator=torch.Generator().manual_seed(1))
    (_, inputs), (_, keys) = read(of_inputs, segments), read(of_keys, segments)
    assert inputs.hidden.shape == (2, 24, 2, 32)
    assert keys.hidden.shape == (2, 24, 4, 8)  # of each block one head of keys and one of values


def test_stored_keys_are_those_of_a_cache_without_their_places():
    """In the first segment nothing is read: what is stored is what the backbone's own cache holds, turned back."""
    backbone = stock("llama")
    _, model = both(backbone, capacity=None)
    ids = torch.randint(1, 64, (1, 8), generator=torch.Generator().manual_seed(1))
    _, state = read(model, [ids])
    cache = transformers.DynamicCache(config=backbone.config)
    with torch.no_grad():
        backbone(input_ids=ids, past_key_values=cache)
    keys, values = state.hidden[:, :, 2:].unflatten(3, (2, 8)).permute(2, 0, 3, 1, 4)
    cos, sin = backbone.model.rotary_emb(keys, torch.arange(8)[None])
    torch.testing.assert_close(apply_rotary_pos_emb(keys, keys, cos, sin)[1], cache.layers[1].keys)
    torch.testing.assert_close(values, cache.layers[1].values)
    assert (keys[:, :, 1:] - cache.layers[1].keys[:, :, 1:]).abs().max() > 1e-2


def test_adapters_on_projections_are_in_what_is_stored():
    settings = LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False, r=2)
    segments = torch.randint(1, 64, (4, 2, 8), generator=torch.Generator().manual_seed(1))
    found = []
    for model in both(stock("llama")):
        torch.manual_seed(2)
        found.append(read(get_peft_model(model, settings).eval(), segments)[0])
    torch.testing.assert_close(found[1], found[0], atol=2e-4, rtol=1e-3)
    plain, _ = read(both(stock("llama"))[1], segments)
    assert (found[1] - plain).abs().max() > 1e-2


def test_nothing_is_learned_through_what_is_stored():
    """The projections of a store of inputs get gradient from what is read; here the segment's alone."""
    gradients = []
    for model in both(stock("llama")):
        segments = torch.randint(1, 64, (2, 2, 8), generator=torch.Generator().manual_seed(1))
        memory = model.train()(input_ids=segments[0]).memory
        output = model(input_ids=segments[1], memory=memory, labels=segments[1])
        output.loss.backward()
        gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad)
        assert not memory.hidden.requires_grad
        assert output.loss.isfinite()
    assert gradients[1].any()
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_a_file_of_one_is_not_taken_by_a_model_that_stores_the_other(tmp_path):
    """Two heads of keys for four of queries make keys and values together as large as an input."""
    of_inputs, of_keys = both(stock("llama"))
    _, state = read(of_keys, torch.randint(1, 64, (3, 2, 8), generator=torch.Generator().manual_seed(1)))
    save_memory(state, tmp_path / "keys.safetensors", of_keys)
    assert states_equal(load_memory(tmp_path / "keys.safetensors", of_keys), state)
    with pytest.raises(ValueError, match="differs: share_content is 'keys_values', the model's 'inputs'"):
        load_memory(tmp_path / "keys.safetensors", of_inputs)


def test_a_file_from_before_there_was_a_choice_is_one_of_inputs(tmp_path):
    of_inputs, of_keys = both(stock("llama"))
    _, state = read(of_inputs, torch.randint(1, 64, (3, 2, 8), generator=torch.Generator().manual_seed(1)))
    described = {k: v for k, v in describe_memory(of_inputs.config).items() if k != "share_content"}
    write_state(state, tmp_path / "old.safetensors", described)
    assert states_equal(load_memory(tmp_path / "old.safetensors", of_inputs), state)
    with pytest.raises(ValueError, match="differs: share_content is 'inputs', the model's 'keys_values'"):
        load_memory(tmp_path / "old.safetensors", of_keys)


def test_a_state_of_the_other_is_refused_also_without_a_file():
    """Also where a key is as large as an input: then there are twice as many vectors of a position."""
    of_inputs, of_keys = both(stock("llama", num_key_value_heads=4))
    segments = torch.randint(1, 64, (2, 2, 8), generator=torch.Generator().manual_seed(1))
    _, state = read(of_keys, segments)
    with pytest.raises(ValueError, match="memory must have the model's number of memory layers 2; got 4"):
        of_inputs(input_ids=segments[0], memory=state)
    of_inputs, of_keys = both(stock("llama", num_key_value_heads=1))
    segments = torch.randint(1, 64, (2, 2, 8), generator=torch.Generator().manual_seed(1))
    _, state = read(of_keys, segments)
    with pytest.raises(ValueError, match="memory must have the model's hidden size 32; got 8"):
        of_inputs(input_ids=segments[0], memory=state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share_content": "keys"}, "share_content must be one of 'inputs', 'keys_values'; got 'keys'"),
        (
            {"share_content": "keys_values"},
            "share_content must be 'inputs' without share_attention; got 'keys_values'",
        ),
        (
            {"share_content": "keys_values", "share_attention": True, "content": ["ids", "hidden"]},
            "share_content must be 'inputs' where content has 'hidden', which are inputs; got 'keys_values'",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EpisodicMemoryConfig(**settings)


LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4, "n_routed_experts": 4, "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1}


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("DeepseekV3", LATENT, "it is not known how this attention turns keys by their places"),
        ("Llama4Text", {"head_dim": 8}, "whose rotary embeddings are not cosines and sines of each position"),
        ("JetMoe", {"kv_channels": 16}, "keys and values of a position must have 16 numbers each"),
        ("HunYuanDenseV1", {"head_dim": 8}, "it is not known how this attention turns keys by their places"),
    ],
)
def test_backbones_whose_keys_are_others_are_refused_with_the_reason(family, settings, message):
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings, "pad_token_id": 0})
    name = family.removesuffix("Text")
    backbone = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with pytest.raises(NotTakenError, match=f"share_content must be 'inputs' for .*{message}"):
        wrap(backbone, memory=EpisodicMemoryConfig(**KEYS, segment_length=8))


def test_turning_back_undoes_turning_also_where_cosines_are_scaled():
    module = stock("llama").model.layers[0].self_attn
    keys = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01]).repeat(2)
    places = (1.3 * angles.cos()[None], 1.3 * angles.sin()[None])
    turn = Turn(module, 8)
    torch.testing.assert_close(turn.back(turn.forth(keys, places), places), keys)
    torch.testing.assert_close(turn.forth(keys, places).norm(dim=-1), 1.3 * keys.norm(dim=-1))
    assert turn.back(keys.bfloat16(), places).dtype == torch.bfloat16


def test_a_module_that_turns_its_keys_otherwise_than_its_file_is_found_out():
    """What decides is what comes out of the module, not the name of a function beside it."""
    backbone = stock("llama")
    module = backbone.model.layers[0].self_attn
    assert type(module) is LlamaAttention

    def places(positions):
        return backbone.model.rotary_emb(torch.zeros(1), positions)

    def project(inputs, rotated, by=1.0):
        keys = module.k_proj(inputs).unflatten(2, (2, 8)).transpose(1, 2)
        cos, sin = rotated
        return apply_rotary_pos_emb(keys, keys, cos, by * sin)[1]

    like = torch.zeros(1, 4, 32)
    unturned = places(torch.zeros(1, 4))
    assert try_turn(module, like, places, project).rotated == 8
    assert try_turn(module, like, places, lambda inputs, _: project(inputs, unturned)).rotated == 0
    with pytest.raises(NotTakenError, match="it is not known how this attention turns keys by their places"):
        try_turn(module, like, places, lambda inputs, rotated: project(inputs, rotated, by=-1.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_it_reads_the_same_in_other_dtypes(dtype):
    """In bfloat16 what is not turned at all is nearer to what is than rounding would be to a large key."""
    for seed in range(5):
        of_inputs, of_keys = (model.to(dtype) for model in both(stock("llama"), keep="fifo", top_k=None))
        segments = torch.randint(1, 64, (5, 2, 8), generator=torch.Generator().manual_seed(seed))
        (expected, _), (found, state) = read(of_inputs, segments), read(of_keys, segments)
        assert state.hidden.dtype == dtype
        exact, _ = read(both(stock("llama"), keep="fifo", top_k=None)[0], segments)
        rounding = (expected - exact).abs().max()  # of the reference itself
        assert (found - exact).abs().max() < 3 * rounding + 1e-4


def test_training_under_autocast_and_checkpointing_reads_the_same():
    losses = []
    for model in both(stock("llama"), keep="fifo", top_k=4):
        model.train().gradient_checkpointing_enable({"use_reentrant": True})
        memory = None
        for ids in torch.randint(1, 64, (4, 2, 8), generator=torch.Generator().manual_seed(1)):
            with torch.autocast("cpu", torch.bfloat16):
                output = model(input_ids=ids, memory=memory, labels=ids)
            memory = output.memory
        output.loss.backward()
        losses.append(output.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert memory.hidden.dtype == torch.float32


def test_a_trial_leaves_random_numbers_and_dropout_of_adapters_alone():
    settings = LoraConfig(target_modules=["q_proj", "k_proj"], init_lora_weights=False, r=2, lora_dropout=0.5)
    ids = torch.randint(1, 64, (2, 8), generator=torch.Generator().manual_seed(1))
    _, model = both(stock("llama"))
    adapted, drawn, logits = get_peft_model(model, settings).train(), [], []
    for _ in range(2):  # only the first forward tries
        torch.manual_seed(3)
        logits.append(adapted(input_ids=ids).logits)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]
    assert torch.equal(*logits)


def test_weights_that_are_brought_for_each_call_can_be_tried():
    _, model = both(stock("llama"))
    segments = torch.randint(1, 64, (3, 2, 8), generator=torch.Generator().manual_seed(1))
    expected, _ = read(model, segments)
    _, offloaded = both(stock("llama"))
    found, _ = read(cpu_offload(offloaded, execution_device="cpu"), segments)
    torch.testing.assert_close(found, expected)


def test_a_copy_does_not_keep_the_original_and_tries_for_itself():
    _, model = both(stock("llama"))
    segments = torch.randint(1, 64, (3, 2, 8), generator=torch.Generator().manual_seed(1))
    expected, _ = read(model, segments)
    weights = weakref.ref(model.model.layers[0].self_attn)
    copied = copy.deepcopy(model)
    del model
    gc.collect()
    assert weights() is None
    assert torch.equal(read(copied, segments)[0], expected)


def test_a_class_that_extends_an_attention_turns_as_that_does():
    backbone = stock("llama")
    expected, _ = read(both(backbone)[1], segments := torch.randint(1, 64, (3, 2, 8)))
    for layer in backbone.model.layers:
        layer.self_attn.__class__ = type("Mine", (LlamaAttention,), {})
    assert torch.equal(read(both(backbone)[1], segments)[0], expected)


def test_a_cache_with_room_behind_it_is_refused():
    _, model = both(stock("llama"))
    cache = transformers.StaticCache(config=model.config, max_cache_len=16)
    with pytest.raises(ValueError, match="past_key_values must be None or a DynamicCache where share_content is"):
        model(input_ids=torch.ones(1, 8, dtype=torch.long), past_key_values=cache)
