"""One model in several threads: each thread gets what it gets alone."""

import pytest
import torch
from families import CAUSAL, tiny_model, tiny_segments, with_targets
from in_threads import CASES, HEADS, KINDS, THREADS, attempt, in_threads, read_on, wrong_ones

from hf_memoria import LwpfAttentionConfig

pytestmark = pytest.mark.slow

# What goes wrong with engrams goes wrong more seldom.
SEGMENTS = {"engrams": 14, "tokens": 5, "rmt": 5, "episodic": 6}
WITH_GRADIENTS = {"engrams": 7, "tokens": 4, "rmt": 6, "episodic": 4}
POSITIONS = "max_position_embeddings"


def sequences(family, head, steps):
    """Segments of each thread."""
    return [
        [with_targets(family, head, inputs) for inputs in tiny_segments(family, steps, seed=number)]
        for number in range(THREADS)
    ]


def check_threads(works):
    """Hold what works give in threads against what they give one after another."""
    alone = [result for work in works for result in work()]
    together = [result for results in in_threads(works) for result in results]
    wrong = wrong_ones(alone, together)
    assert not wrong, wrong


def reading(models, family, heads=None, steps=4, **kwargs):
    """A work for each thread: to read a sequence of its own with its model."""
    heads = heads or ["Model"] * THREADS
    return [
        lambda model=model, number=number, head=head: read_on(model, sequences(family, head, steps)[number], **kwargs)
        for number, (model, head) in enumerate(zip(models, heads, strict=True))
    ]


def checkpointing(model):
    """Compute activations once more for the gradients."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@pytest.mark.parametrize("part", ["head", "base", "head and backbone"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_each_thread_reads_its_own_memory(family, kind, part):
    model = tiny_model(family, "Model" if part == "base" else HEADS[family], KINDS[kind]())
    models = [model, model.base_model] * 2 if part == "head and backbone" else [model] * THREADS
    check_threads(reading(models, family, steps=SEGMENTS[kind]))


@pytest.mark.parametrize("family", ["Bert", "Roberta", "ViT"])
def test_each_thread_has_its_own_cue_within_a_segment(family):
    model = tiny_model(family, HEADS[family], {"cue_layer": 0})
    check_threads(reading([model] * THREADS, family, steps=SEGMENTS["engrams"]))


@pytest.mark.parametrize("part", ["head", "base"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_each_thread_has_its_own_gradients(family, kind, part):
    head = "Model" if part == "base" else HEADS[family]
    model = tiny_model(family, head, KINDS[kind]()).train()
    check_threads(reading([model] * THREADS, family, [head] * THREADS, steps=WITH_GRADIENTS[kind], gradients=True))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_each_thread_has_its_own_gradients_where_activations_are_computed_once_more(family, kind):
    model = checkpointing(tiny_model(family, HEADS[family], KINDS[kind]()).train())
    check_threads(reading([model] * THREADS, family, [HEADS[family]] * THREADS, steps=3, gradients=True))


@pytest.mark.parametrize("way", ["reading", "gradients", "checkpointing"])
@pytest.mark.parametrize("family", HEADS)
def test_a_backbone_without_memory_is_right_in_every_thread(family, way):
    model, head = tiny_model(family, HEADS[family]), HEADS[family]
    model = model if way == "reading" else model.train()
    model = checkpointing(model) if way == "checkpointing" else model
    check_threads(reading([model] * THREADS, family, [head] * THREADS, steps=3, gradients=way != "reading"))


@pytest.mark.parametrize("memory", [None, *KINDS])
@pytest.mark.parametrize("family", HEADS)
def test_attentions_are_given_in_the_threads_that_want_them(family, memory):
    # Two attentions cannot take the place of one.
    changes = {"episodic": {"share_attention": False}, "rmt": {"gate": None}}
    settings = None if memory is None else KINDS[memory](**changes.get(memory, {}))
    model = tiny_model(family, HEADS[family], settings, attention=LwpfAttentionConfig())
    wanted = [{"output_attentions": wants, "output_hidden_states": wants} for wants in (True, False, True, False)]
    works = [reading([model] * THREADS, family, **options)[number] for number, options in enumerate(wanted)]
    check_threads(works)


def decoder(family, kind):
    """A model whose segments have 8 tokens, and which does not repeat itself as a tied random one does."""
    blocks, positions = ("n_layer", "n_positions") if family == "GPT2" else ("num_hidden_layers", POSITIONS)
    role = {} if family in CAUSAL else {"is_decoder": True}
    sizes = {blocks: 2, positions: 10 if family == "Roberta" else 8}
    return tiny_model(family, "ForCausalLM", KINDS[kind](), tie_word_embeddings=False, **sizes, **role)


def generating(model, rounds=3, new=14, **options):
    """A work for each thread: to continue prompts of its own past the window."""

    def generate(number):
        generator = torch.Generator().manual_seed(number)
        results = []
        for _ in range(rounds):
            ids = torch.randint(2, 60, (2, 5), generator=generator)
            settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False}
            settings |= {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True, **options}
            results.append(attempt(lambda ids=ids, settings=settings: part_of(model.generate(ids, **settings))))
        return results

    return [lambda number=number: generate(number) for number in range(THREADS)]


def part_of(output):
    return {name: output[name] for name in ("sequences", "logits", "memory") if name in output}


@pytest.mark.parametrize("beams", [1, 3], ids=["greedy", "beams"])
@pytest.mark.parametrize(("family", "kind"), [case for case in CASES if case[0] != "ViT"])
def test_each_thread_generates_from_its_own_memory(family, kind, beams):
    check_threads(generating(decoder(family, kind), rounds=1, num_beams=beams))


@pytest.mark.parametrize("beams", [1, 3], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_backbone_without_memory_generates_the_same_in_every_thread(family, beams):
    check_threads(generating(tiny_model(family, "ForCausalLM"), rounds=1, new=9, num_beams=beams))
