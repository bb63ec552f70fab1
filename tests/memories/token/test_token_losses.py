"""What the three losses are, which parameters each reaches, and how far back in time a gradient goes."""

import pytest
import torch
from families import CASES, answer, loss_of, tiny_batch, tiny_segments
from naive_tokens import naive_memory_encoder
from test_token_memory import token_model
from torch.nn import functional as F

from hf_memoria import TokenState
from hf_memoria.backbones import Call
from hf_memoria.memories.token.reading import TokenReading

pytestmark = pytest.mark.slow

HEADS = {"GPT2": "ForCausalLM", "Llama": "ForCausalLM", "Bert": "ForMaskedLM", "Roberta": "ForMaskedLM"}
FAMILY_HEADS = [*HEADS.items(), ("ViT", "ForImageClassification")]


def groups_reached(model, loss):
    """Return which groups of parameters have a gradient of a loss that is not zero."""
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, retain_graph=True)
    groups = set()
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        if gradient is not None and gradient.abs().sum() > 0:
            groups.add(group_of(model, name))
    return groups


def group_of(model, name):
    for part in ("encoder", "initial", "slots", "prompts"):
        if f"token_memory.{part}" in name:
            return part
    return "backbone" if name.startswith(model.base_model_prefix + ".") else "head"


@pytest.mark.parametrize(("family", "head"), FAMILY_HEADS)
def test_each_loss_reaches_what_it_is_for(family, head):
    model = token_model(family, head).train()
    batch = tiny_batch(family, head)
    losses = model(**batch).losses
    assert set(losses) == {"task", "recall", "memory", "composition", "variance", "covariance"}
    own_head = set() if family == "GPT2" else {"head"}
    assert groups_reached(model, losses["task"]) == {"backbone", "initial", "slots"} | own_head
    assert groups_reached(model, losses["recall"]) == {"backbone", "initial", "slots", "encoder", "prompts"}
    assert groups_reached(model, losses["memory"]) == {"encoder", "slots"}


def test_in_later_segments_the_model_s_own_loss_reaches_the_backbone_alone():
    model = token_model("Llama", "ForCausalLM").train()
    segments = [tiny_batch("Llama", "ForCausalLM", seed=seed) for seed in range(2)]
    losses = model(**segments[1], memory=model(**segments[0]).memory).losses
    assert groups_reached(model, losses["task"]) == {"backbone", "head", "slots"}
    assert groups_reached(model, losses["recall"]) == {"backbone", "slots", "encoder", "prompts"}
    assert groups_reached(model, losses["memory"]) == {"encoder", "slots"}


def test_a_recall_of_tokens_reaches_the_head_as_well():
    model = token_model("Llama", "ForCausalLM", recall_target="tokens").train()
    losses = model(**tiny_batch("Llama", "ForCausalLM")).losses
    assert groups_reached(model, losses["recall"]) == {"backbone", "head", "initial", "slots", "encoder", "prompts"}


@pytest.mark.parametrize(("family", "head"), FAMILY_HEADS)
def test_the_losses_are_added_up_by_their_weights(family, head):
    model = token_model(family, head, recall_weight=0.7, memory_weight=0.3).train()
    torch.manual_seed(0)
    output = model(**tiny_batch(family, head))
    losses = output.losses
    expected = losses["task"] + 0.7 * losses["recall"] + 0.3 * losses["memory"]
    torch.testing.assert_close(output.loss, expected)
    spread = losses["variance"] + 0.04 * losses["covariance"]
    torch.testing.assert_close(losses["memory"], losses["composition"] + spread)
    model.eval()
    with torch.no_grad():
        assert model(**tiny_batch(family, head)).get("losses") is None


@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_trains_every_parameter(family, head):
    model = token_model(family, head).train()
    output = model(**tiny_batch(family, head))
    loss_of(output).backward()
    if output.get("losses") is None:
        return
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in unreached if "token_memory" in name]


@pytest.mark.parametrize("switched_off", ["recall_weight", "memory_weight", "vicreg"])
def test_a_loss_that_is_switched_off_is_not_there(switched_off):
    settings = {"recall_weight": 0.0, "memory_weight": 0.0, "vicreg": False}
    model = token_model("GPT2", "ForCausalLM", **{switched_off: settings[switched_off]}).train()
    output = model(**tiny_batch("GPT2", "ForCausalLM"))
    if switched_off == "vicreg":
        assert torch.equal(output.losses["memory"], output.losses["composition"])
    else:
        assert switched_off.removesuffix("_weight") not in output.losses
    output.loss.backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unreached


def test_without_any_loss_of_its_own_no_parameter_is_without_gradient():
    model = token_model("GPT2", "ForCausalLM", recall_weight=0.0, memory_weight=0.0).train()
    output = model(**tiny_batch("GPT2", "ForCausalLM"))
    assert torch.equal(output.loss, output.losses["task"])
    output.loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_recall_is_the_distance_of_what_the_backbone_brings_back():
    """Written out: mask tokens at the segment's positions, after new memory tokens and one that asks."""
    model = token_model("GPT2", "ForCausalLM").train()
    batch = tiny_batch("GPT2", "ForCausalLM")
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    recall = model(**batch, attention_mask=mask).losses["recall"]
    own, base, total = model.base_model.token_memory, model.transformer, 0.0
    reading = TokenReading(own.placed(own.initial.weight.expand(2, -1, -1)))
    wide = Call(base, reading).run(base, input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
    for row, length in enumerate((9, 6)):
        after = naive_memory_encoder(own.encoder, own.placed(own.initial.weight), wide[row, :length])
        after = own.placed(after)
        embeds = torch.cat([after, own.prompts.weight[1:], own.prompts.weight[:1].expand(9, -1)])
        sees = torch.ones(13, 13, dtype=torch.bool)
        sees[:4, 4:] = False
        sees[:, 4 + length :] = False
        places = torch.tensor([[0] * 4 + list(range(9))])
        brought = base(inputs_embeds=embeds[None], attention_mask=sees[None, None], position_ids=places)
        target = wide[row, :length].detach()
        total = total + (brought.last_hidden_state[0, 4 : 4 + length] - target).square().mean(-1).sum()
    torch.testing.assert_close(recall, total / 15, atol=1e-5, rtol=1e-5)
    reached = [parameter for name, parameter in model.named_parameters() if "token_memory" in name or "h.0" in name]
    gradients = [torch.autograd.grad(loss, reached, retain_graph=True) for loss in (recall, total / 15)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_recall_of_tokens_is_their_cross_entropy():
    model = token_model("GPT2", "ForCausalLM", recall_target="tokens").train()
    batch = tiny_batch("GPT2", "ForCausalLM")
    output = model(**batch)
    memory = model.base_model.token_memory
    after = memory.placed(output.memory.tokens)
    total = 0.0
    for row in range(2):
        embeds = torch.cat([after[row], memory.prompts.weight[1:], memory.prompts.weight[:1].expand(9, -1)])
        sees = torch.ones(13, 13, dtype=torch.bool)
        sees[:4, 4:] = False
        places = torch.tensor([[0] * 4 + list(range(9))])
        hidden = model.transformer(
            inputs_embeds=embeds[None], attention_mask=sees[None, None], position_ids=places
        ).last_hidden_state
        total = total + F.cross_entropy(model.lm_head(hidden[0, 4:]), batch["input_ids"][row], reduction="sum")
    torch.testing.assert_close(output.losses["recall"], total / 18, atol=1e-5, rtol=1e-5)


def test_tokens_cannot_be_recalled_without_a_language_modelling_head():
    model = token_model("GPT2", "ForTokenClassification", recall_target="tokens").eval()
    batch = tiny_batch("GPT2", "ForTokenClassification")
    model(**batch)
    with pytest.raises(ValueError, match="recall_target must be 'hidden' for a model without a language-modelling"):
        model.train()(**batch)


def test_recall_of_an_image_is_told_nothing_of_it():
    model = token_model("ViT", "ForImageClassification", recall_weight=1.0, memory_weight=0.0).train()
    batch = tiny_batch("ViT", "ForImageClassification")
    seen = []
    handle = model.vit.embeddings.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    model(**batch)
    handle.remove()
    assert seen[0].any()
    assert not seen[1].any()


def test_a_batch_without_a_target_weighs_nothing():
    model = token_model("GPT2", "ForCausalLM").train()
    batch = tiny_batch("GPT2", "ForCausalLM")
    output = model(**{**batch, "labels": torch.full_like(batch["labels"], -100)})
    assert output.loss.item() == 0
    output.loss.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_losses_of_an_accumulated_step_weigh_as_their_targets_do():
    model = token_model("GPT2", "ForCausalLM").train()
    batch = tiny_batch("GPT2", "ForCausalLM")
    torch.manual_seed(0)
    whole = model(**batch)
    torch.manual_seed(0)
    part = model(**batch, num_items_in_batch=torch.tensor(36))
    own = whole.loss - whole.losses["task"]
    torch.testing.assert_close(part.loss - part.losses["task"], own / 2)


# How far back in time a gradient goes.


def disjoint_segments(family, steps):
    """Segments of ids that no other segment has, so that the gradient of an embedding tells a segment's."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5 + 9 * step, 14 + 9 * step, (2, 8), generator=generator) for step in range(steps)]


def gradients_by_segment(model, segments):
    """Train through the segments; return the norm of the last loss's gradient to the embeddings of each segment."""
    memory = None
    for ids in segments:
        output = model(ids, labels=ids, memory=memory)
        memory = output.memory
    embeddings = model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(output.losses["task"], embeddings)
    return [gradient[ids.unique()].norm().item() for ids in segments]


@pytest.mark.parametrize("encoder_layers", [2, 0])
@pytest.mark.parametrize("bptt_segments", [0, 1, 2, 3])
def test_the_gradient_goes_back_as_far_as_it_is_told_and_no_further(encoder_layers, bptt_segments):
    weights = {} if encoder_layers == 0 else {"recall_weight": 0.0, "memory_weight": 0.0}
    model = token_model(
        "Llama", "ForCausalLM", encoder_layers=encoder_layers, bptt_segments=bptt_segments, **weights
    ).train()
    norms = gradients_by_segment(model, disjoint_segments("Llama", 6))
    reached = [norm > 0 for norm in norms]
    assert reached == [step >= 5 - bptt_segments for step in range(6)]


@pytest.mark.parametrize("encoder_layers", [2, 0])
def test_without_a_limit_it_goes_back_to_the_beginning_of_the_document(encoder_layers):
    model = token_model("Llama", "ForCausalLM", encoder_layers=encoder_layers, bptt_segments=None).train()
    segments = disjoint_segments("Llama", 6)
    assert all(norm > 0 for norm in gradients_by_segment(model, segments))
    memory = None
    for step, ids in enumerate(segments):
        reset = torch.tensor([step == 2, step == 2])
        output = model(ids, labels=ids, memory=memory, reset_memory=reset)
        memory = output.memory
    assert len(memory.history) == 4
    (gradient,) = torch.autograd.grad(output.losses["task"], model.get_input_embeddings().weight)
    assert [gradient[ids.unique()].norm().item() > 0 for ids in segments] == [False, False, True, True, True, True]


@pytest.mark.parametrize(("family", "head"), FAMILY_HEADS)
@pytest.mark.parametrize("bptt_segments", [1, 3, None])
def test_reading_segments_again_leads_to_the_same_memory(family, head, bptt_segments):
    """Rows begin documents at different steps, and one is padding once."""
    segments = [tiny_batch(family, head, seed=seed) for seed in range(6)]
    models = [token_model(family, head, bptt_segments=length).train() for length in (0, bptt_segments)]
    states = [None, None]
    for step, batch in enumerate(segments):
        more = {"reset_memory": torch.tensor([step == 3, step == 1])}
        if family != "ViT":
            more["attention_mask"] = torch.tensor([[1] * 9, [int(step != 4)] * 9])
        outputs = [model(**batch, **more, memory=state) for model, state in zip(models, states, strict=True)]
        states = [output.memory for output in outputs]
        torch.testing.assert_close(answer(outputs[0]), answer(outputs[1]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(states[0].tokens, states[1].tokens, atol=1e-5, rtol=1e-5)
        assert torch.equal(states[0].step, states[1].step)
    assert len(states[0].history) == 0
    assert len(states[1].history) == {1: 1, 3: 3, None: 5}[bptt_segments]


def test_gradients_through_time_are_those_of_one_long_graph():
    """The last segment's loss, as it is where nothing is detached."""
    model = token_model("Llama", "ForCausalLM", bptt_segments=2, recall_weight=0.0, memory_weight=0.0).train()
    segments = disjoint_segments("Llama", 3)
    memory = None
    for ids in segments:
        output = model(ids, labels=ids, memory=memory)
        memory = output.memory
    ours = torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True)
    own, tokens = model.base_model.token_memory, None
    for ids in segments:
        before = own.initial.weight.expand(2, -1, -1) if tokens is None else tokens
        placed = own.placed(before)
        reading = TokenReading(placed)
        hidden = Call(model.base_model, reading).run(model.base_model, input_ids=ids).last_hidden_state
        tokens = torch.stack([naive_memory_encoder(own.encoder, placed[row], hidden[row]) for row in range(2)])
    loss = model.loss_function(model.lm_head(hidden), ids, vocab_size=61)
    theirs = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for (name, _), one, other in zip(model.named_parameters(), ours, theirs, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_evaluation_keeps_no_history():
    model = token_model("GPT2", "ForCausalLM", bptt_segments=2).train()
    segments = tiny_segments("GPT2", steps=3)
    memory = model(**segments[0]).memory
    assert len(memory.history) == 1
    with torch.no_grad():
        after = model.eval()(**segments[1], memory=memory).memory
    assert after.history == ()
    assert torch.equal(after.base, after.tokens)
    assert len(model.train()(**segments[2], memory=after).memory.history) == 1


def test_states_with_histories_of_other_lengths_are_stacked():
    model = token_model("GPT2", "ForCausalLM", bptt_segments=3).train()
    segments = tiny_segments("GPT2", steps=4)
    memory = None
    states = []
    for inputs in segments:
        memory = model(**inputs, memory=memory).memory
        states.append(memory)
    joined = TokenState.cat([states[0], states[2]])
    assert len(joined.history) == 3
    after = model(segments[3]["input_ids"].repeat(2, 1), memory=joined).memory
    one = model(segments[3]["input_ids"], memory=states[0]).memory
    two = model(segments[3]["input_ids"], memory=states[2]).memory
    torch.testing.assert_close(after.tokens, torch.cat([one.tokens, two.tokens]), atol=1e-5, rtol=1e-5)


def test_a_row_that_has_read_nothing_has_no_tokens_of_its_own():
    model = token_model("GPT2", "ForCausalLM", bptt_segments=2).train()
    segments = tiny_segments("GPT2", steps=2)
    memory = model(**segments[0]).memory
    nothing = torch.tensor([[1] * 9, [0] * 9])
    after = model(
        **segments[1], memory=memory, attention_mask=nothing, reset_memory=torch.tensor([False, True])
    ).memory
    assert after.step.tolist() == [2, 0]
    assert not after.tokens[1].any()
    assert [segment.live.tolist() for segment in after.history] == [[True, False], [True, False]]
