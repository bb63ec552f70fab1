"""A tiny tokenizer with a chat template, and tiny models that it fits, for tests of conversations."""

from families import SMALL, tiny_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<s>system\nbe kind<e>\n{% endif %}"
    "<s>{{ message['role'] }}\n{{ message['content'] }}<e>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""As ChatML, with a system prompt of its own, as SmolLM2's has one."""

SPECIAL = {"pad_token": "<p>", "eos_token": "<e>", "bos_token": "<s>"}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n?.A-"


def chat_tokenizer(template=CHAT_TEMPLATE):
    """Return a tokenizer of single letters, 46 tokens."""
    words = [*SPECIAL.values(), *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", **SPECIAL)
    made.chat_template = template
    return made


def chat_model(kind, family="Llama", seed=0, **settings):
    """Return a tiny model that ends its answers where `chat_tokenizer` does."""
    sizes = {"vocab_size": 46, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    memory = SMALL[kind](**({"segment_length": 16} | settings))
    return tiny_model(family, "ForCausalLM", memory, seed=seed, **sizes)
