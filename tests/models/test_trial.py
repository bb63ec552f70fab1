"""What is found is tried out with what was chosen for it: wrong outputs are refused, and the field is named."""

import new_process
import pytest
import torch
from families import read_all
from tiny_stock import tiny_stock
from transformers import AutoModel
from versions import NOT_SEEN

import hf_memoria
from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, LwpfAttentionConfig, TokenMemoryConfig, wrap
from hf_memoria.backbones.tree import NotFoundError, NotTakenError
from hf_memoria.models.entries import spec_for
from hf_memoria.models.trial import Stock, try_out

pytestmark = pytest.mark.slow

PEGASUS = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 40}
T5 = {"d_model": 32, "num_heads": 4, "d_ff": 40, "d_kv": 8, "num_layers": 2}
MPT = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
IMAGE = {"image_size": 16, "patch_size": 4}


def tokens(**changes):
    return TokenMemoryConfig(**{"num_tokens": 3, "encoder_layers": 0, "segment_length": 12, **changes})


def shared(**changes):
    return EpisodicMemoryConfig(**{"share_attention": True, "segment_length": 12, "capacity": 64, **changes})


def segments(steps=3):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 60, (2, 9), generator=generator)} for _ in range(steps)]


@pytest.mark.parametrize(
    ("name", "changes", "chosen", "message"),
    [
        (
            "MraForMaskedLM",
            {"max_position_embeddings": 64},
            {"memory": tokens()},
            NOT_SEEN,
        ),
        ("ImageGPTForImageClassification", {}, {"memory": tokens()}, NOT_SEEN),
        (
            "T5EncoderModel",
            T5,
            {"memory": tokens(gate=None)},
            r"gives the shape \[2, 11, 32\] where it is \[2, 8, 32\]",
        ),
        (
            "BigBirdPegasusForCausalLM",
            PEGASUS,
            {"attention": LwpfAttentionConfig()},
            "shows positions those after them",
        ),
    ],
    ids=["tokens nobody sees", "tokens behind a causal text", "positions too many", "not causal any more"],
)
def test_a_model_that_would_do_wrong_is_refused(name, changes, chosen, message):
    with pytest.raises(NotFoundError, match=message):
        wrap(tiny_stock(name, **changes), **chosen)


def test_outputs_that_differ_behind_a_closed_gate_are_refused():
    stock = tiny_stock("Qwen3ForCausalLM", head_dim=8)
    model = wrap(stock, memory=tokens())
    before = Stock.of(stock, spec_for(stock), 12)
    try_out(model, before)
    model.model.norm.weight.data.mul_(1.5)
    with pytest.raises(NotFoundError, match=r"differs by .* from one without, though nothing is remembered yet"):
        try_out(model, before)


def test_gradients_that_are_not_finite_are_refused():
    stock = tiny_stock("Qwen3ForCausalLM", head_dim=8)
    model, before = wrap(stock, memory=EngramMemoryConfig()), Stock.of(stock, spec_for(stock), None)
    model.lm_head.register_forward_hook(lambda module, args, output: output + (output - output).abs().sqrt())
    with pytest.raises(NotFoundError, match="gives gradients that are not finite"):
        try_out(model, before)


def test_another_attention_that_does_not_run_is_refused():
    stock = tiny_stock("Qwen3ForCausalLM", head_dim=8)
    model, before = wrap(stock, attention=LwpfAttentionConfig()), Stock.of(stock, spec_for(stock), None)
    model.config._attn_implementation_internal = "sdpa"
    with pytest.raises(NotFoundError, match=r"does not attend by it in blocks \[0, 1\]"):
        try_out(model, before)


def test_loading_tries_out_what_wrapping_does(tmp_path):
    tiny_stock("MraForMaskedLM", max_position_embeddings=64).save_pretrained(tmp_path)
    with pytest.raises(NotFoundError, match=NOT_SEEN):
        hf_memoria.MemoriaAutoModelForMaskedLM.from_pretrained(tmp_path, memory=tokens())


def test_images_are_pooled_without_memory_tokens():
    stock = tiny_stock("BeitForImageClassification", **IMAGE, initializer_range=0.2)
    model, image = wrap(stock, memory=tokens()), {"pixel_values": torch.randn(2, 3, 16, 16)}
    assert model.config.memory.gate == "tanh"
    torch.testing.assert_close(model(**image).logits, stock(**image).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("BloomForCausalLM", {"n_head": 4, "n_layer": 2}, "does not go through Transformers' AttentionInterface"),
        ("FalconForCausalLM", {}, "does not go through Transformers' AttentionInterface"),
        ("MptForCausalLM", MPT, "does not go through Transformers' AttentionInterface"),
        ("DebertaV2ForMaskedLM", {}, "does not go through Transformers' AttentionInterface"),
        ("VaultGemmaForCausalLM", {"head_dim": 8}, r"attends with \['softcap'\]"),
        ("CTRLLMHeadModel", {"n_embd": 32, "n_head": 4, "dff": 40}, "cannot be called on stored positions: TypeError"),
    ],
)
def test_who_cannot_share_its_attention_is_told_that_field(name, changes, reason, implementation):
    stock = tiny_stock(name, **changes)
    if stock._supports_sdpa:
        stock.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=f"^share_attention must be False for .*{reason}"):
        wrap(stock, memory=shared())
    wrap(stock, memory=shared(share_attention=False))


def test_blocks_that_can_share_are_named():
    stock = tiny_stock("MiniMaxForCausalLM", layer_types=["linear_attention", "full_attention"], head_dim=8)
    with pytest.raises(ValueError, match=r"share_layers must name blocks .* which are \[1\]"):
        wrap(stock, memory=shared())
    wrap(stock, memory=shared(share_layers=[1]))


def test_what_is_refused_in_a_forward_names_the_field_of_any_model():
    with pytest.raises(NotTakenError, match="share_attention must be False for GptOssAttention"):
        wrap(tiny_stock("GptOssForCausalLM", head_dim=8, num_local_experts=4), memory=shared())


@pytest.mark.parametrize(
    ("name", "changes"), [("DeepseekV3ForCausalLM", LATENT), ("GPTNeoXForCausalLM", {})], ids=["latent", "layer_past"]
)
def test_shared_attention_of_other_shapes_and_names_reads_what_is_stored(name, changes):
    """Values of a size of their own (multi-head latent attention), and a cache that is called `layer_past`."""
    model = wrap(tiny_stock(name, initializer_range=0.2, **changes), memory=shared(separate_read=False))
    last = read_all(model, segments())[-1].logits
    assert not torch.allclose(last, model(**segments()[-1]).logits, atol=1e-3)
    ids = segments()[0]["input_ids"]
    told = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    memory, kept = None, ids
    for _ in range(6):
        memory = None
        for start in range(0, kept.shape[1], 12):
            read = model(input_ids=kept[:, start : start + 12], memory=memory)
            memory = read.memory
        kept = torch.cat([kept, read.logits[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(told, kept)


CLASSES = {"memory": EpisodicMemoryConfig(segment_length=12, capacity=64)}


def test_a_class_that_its_auto_class_does_not_know_comes_back_by_its_name(tmp_path):
    model = wrap(tiny_stock("T5EncoderModel", **T5), **CLASSES)
    model.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model)
    code = "import sys, hf_memoria; from transformers import AutoModel; "
    code += "print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)"
    assert new_process.run(["-c", code, tmp_path]).stdout.strip().endswith("MemoriaT5EncoderModel")
    of_nothing = type(model.config)(**T5)
    assert type(AutoModel.from_config(of_nothing)).__name__ == "MemoriaT5Model"
