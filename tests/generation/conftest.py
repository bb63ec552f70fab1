"""The slow and obviously right way to generate: one row, no cache, one segment after another."""

import functools
from dataclasses import dataclass

import pytest
import torch
from families import CAUSAL, ENCODERS, tiny_model

from hf_memoria import MemoriaCache, TokenMemoryConfig, TokenState


@dataclass
class SegmentLoop:
    """A row that reads one token at a time; for each, its unfinished segment is computed anew."""

    model: torch.nn.Module
    memory: object = None
    segment: tuple = ()

    def feed(self, token):
        if len(self.segment) == self.model.config.segment_length:
            self.memory, self.segment = self.written(), ()
        self.segment += (token,)

    def _forward(self):
        return self.model(torch.tensor([self.segment]), memory=self.memory, use_cache=False)

    def logits(self):
        return self._forward().logits[0, -1]

    def written(self):
        return self._forward().memory if self.segment else self.memory


def most_likely(logits):
    return int(logits.argmax())


@torch.no_grad()
def generate_by_loop(model, prompt, new, memory=None, choose=most_likely, stop=None, logits=None):
    """Continue a prompt `[T]` by up to `new` tokens; return all tokens, and the memory of having read them.

    A list in `logits` gets what each token was chosen by.
    """
    loop, tokens, logits = SegmentLoop(model, memory), prompt.tolist(), [] if logits is None else logits
    for token in tokens:
        loop.feed(token)
    for _ in range(new):
        logits.append(loop.logits())
        tokens.append(choose(logits[-1]))
        loop.feed(tokens[-1])
        if tokens[-1] == stop:
            break
    return tokens, loop.written()


@pytest.fixture
def by_loop():
    return generate_by_loop


@pytest.fixture
def prompts():
    """Token ids, `[rows, length]`, none of them a special token."""

    def make(length, rows=1, seed=0):
        return torch.randint(2, 60, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make


def pad_left(prompts, pad=60):
    """Return prompts of different lengths as a batch, with its mask."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.stack([torch.cat([torch.full((longest - len(p),), pad), p]) for p in prompts])
    mask = torch.stack([torch.tensor([0] * (longest - len(p)) + [1] * len(p)) for p in prompts])
    return ids, mask


@pytest.fixture
def padded():
    return pad_left


def check_same_memory(one, other, rows=slice(None)):
    """The same engrams or memory tokens, as far as two orders of adding floats allow."""
    one = one[rows]
    if isinstance(one, TokenState):
        assert torch.equal(one.step, other.step)
        assert torch.allclose(one.tokens, other.tokens, atol=1e-4)
        return
    for name in ("id", "kind", "age", "created"):
        left, right = getattr(one, name)[one.valid], getattr(other, name)[other.valid]
        assert torch.equal(left, right), name
    assert torch.equal(one.step, other.step)
    assert torch.allclose(one.lifespan[one.valid], other.lifespan[other.valid], atol=1e-4)
    assert torch.allclose(one.data[one.valid], other.data[other.valid], atol=1e-4)
    counts = [s.cofire_counts[0][s.valid[0]][:, s.valid[0]] for s in (one, other)]
    assert torch.equal(*counts)
    assert torch.equal(one.cue_mask.sum(-1), other.cue_mask.sum(-1))
    assert torch.allclose(one.cue[one.cue_mask], other.cue[other.cue_mask], atol=1e-4)


@pytest.fixture
def same_memory():
    return check_same_memory


@pytest.fixture
def generate():
    """Call generate() without an end token, with a dict in return."""

    def call(model, ids, new=20, **options):
        settings = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True, "max_new_tokens": new}
        options = settings | {"attention_mask": torch.ones_like(ids)} | options
        return model.generate(ids, **{name: value for name, value in options.items() if value != "default"})

    return call


@pytest.fixture
def check_pieces(prompts):
    """Hold the logits of a text read in pieces, of each of some sizes, against those of its whole segments."""

    def check(model, segment_length, pieces):
        ids, memory, whole = prompts(2 * segment_length + 7, rows=2), None, []
        with torch.no_grad():
            for segment in ids.split(segment_length, dim=1):
                output = model(segment, memory=memory, use_cache=False)
                memory = output.memory
                whole.append(output.logits)
            for sizes in pieces:
                cache = MemoriaCache(model.config)
                got = [model(piece, past_key_values=cache).logits for piece in ids.split(sizes, dim=1)]
                torch.testing.assert_close(torch.cat(got, dim=1), torch.cat(whole, dim=1), atol=1e-4, rtol=1e-4)

    return check


BY_OTHER_NAMES = ("num_hidden_layers", "max_position_embeddings")


def decoder(family, memory=None, **changes):
    """A model whose segments have 8 tokens, and which does not repeat itself as a tied random one does."""
    blocks, positions = ("n_layer", "n_positions") if family == "GPT2" else BY_OTHER_NAMES
    sizes = {blocks: 2, positions: 10 if family == "Roberta" else 8}
    role = {"is_decoder": True} if family in ENCODERS else {}
    settings = {"tie_word_embeddings": False} | sizes | role | changes
    return tiny_model(family, "ForCausalLM", memory or {}, **settings)


def token_decoder(family, **settings):
    """The same with memory tokens, whose encoder says more than a newly made one does."""
    memory = TokenMemoryConfig(**({"num_tokens": 3, "encoder_layers": 2, "encoder_heads": 2} | settings))
    model = decoder(family, memory)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "token_memory" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


KINDS = {
    "engrams": decoder,
    "tokens": token_decoder,
    "rmt": functools.partial(token_decoder, encoder_layers=0),
}
"""Decoders by kind of memory."""


@pytest.fixture(params=CAUSAL)
def family(request):
    return request.param


@pytest.fixture(params=KINDS)
def model(request, family):
    return KINDS[request.param](family)


@pytest.fixture
def build_decoder():
    return decoder


@pytest.fixture
def build_token_decoder():
    return token_decoder
