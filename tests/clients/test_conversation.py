"""Turns of a conversation as segments: what is new, what is remembered, and what is refused."""

import pytest
import torch
from chats import CHAT_TEMPLATE, chat_model, chat_tokenizer
from families import states_equal
from transformers import StoppingCriteria, StoppingCriteriaList

from hf_memoria.clients.conversation import answer, closing_ids, preamble_length, turn_ids
from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.memories.interface import SYSTEMS

FIRST = [{"role": "user", "content": "my cat is tom"}]
SECOND = {"role": "user", "content": "who is tom?"}
BIG = {"capacity": None, "segment_length": 16}

INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{% if loop.last and loop.index > 1 and "
    "messages[0]['role'] == 'system' %}{{ messages[0]['content'] }} {% endif %}A {{ m['content'] }} -"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""As Mistral's: the system prompt stands in the last message of the user."""

WITH_FINAL_END = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
"""As that of Phi 3: a text that no answer follows ends with a token more."""


def whole(tokenizer, messages, **given):
    return tokenizer.apply_chat_template(messages, tokenize=False, **given)


def said(text, *messages):
    return [*messages, {"role": "assistant", "content": text}, SECOND]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, INSTRUCT, WITH_FINAL_END])
def test_turns_joined_are_the_template_of_the_whole_conversation(template):
    tokenizer = chat_tokenizer(template)
    conversation = said("tom is a cat", *FIRST)
    first = turn_ids(tokenizer, FIRST, first=True)[0].tolist()
    answered = tokenizer("tom is a cat", add_special_tokens=False)["input_ids"] + closing_ids(tokenizer)
    second = turn_ids(tokenizer, conversation, first=False)[0].tolist()
    assert tokenizer.decode(first + answered + second) == whole(tokenizer, conversation, add_generation_prompt=True)


def test_what_is_new_is_what_stands_behind_the_last_answer():
    tokenizer = chat_tokenizer()
    alone = turn_ids(tokenizer, [SECOND], first=False)
    assert tokenizer.decode(alone[0]) == "<s>user\nwho is tom?<e>\n<s>assistant\n"
    assert turn_ids(tokenizer, said("b", *FIRST), first=False).equal(alone)
    system = {"role": "system", "content": "be terse"}
    assert turn_ids(tokenizer, [system, SECOND], first=False).equal(alone)  # known since the first turn
    assert turn_ids(tokenizer, [system, *said("b", *FIRST)], first=False).equal(alone)
    told = turn_ids(tokenizer, [*said("b", *FIRST)[:-1], system, SECOND], first=False)
    assert "be terse" in tokenizer.decode(told[0])  # new where it stands


def test_a_memory_without_the_conversation_reads_all_of_it():
    tokenizer = chat_tokenizer()
    conversation = said("b", *FIRST)
    ids = turn_ids(tokenizer, conversation, first=True)
    assert tokenizer.decode(ids[0]) == whole(tokenizer, conversation, add_generation_prompt=True)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
@pytest.mark.parametrize("ending", ["model", "limit"])
def test_what_is_remembered_is_the_well_formed_conversation(family, ending):
    model, tokenizer = chat_model("episodic", family, **BIG), chat_tokenizer()
    # The likeliest token of all, or one that never comes.
    likeliest = answer(model, tokenizer, FIRST, None, max_new_tokens=1).memory.text_ids(0)
    ends = {"eos_token_id": likeliest[-3]} if ending == "model" else {"eos_token_id": 0, "suppress_tokens": [0]}
    one = answer(model, tokenizer, FIRST, None, max_new_tokens=5, **ends)
    two = answer(model, tokenizer, said(one.text, *FIRST), one.memory, max_new_tokens=5, **ends)
    read = tokenizer.decode(two.memory.text_ids(0))
    assert read == whole(tokenizer, [*said(one.text, *FIRST), {"role": "assistant", "content": two.text}])
    assert (one.ended, one.completion_tokens) == ((True, 1) if ending == "model" else (False, 5))
    assert one.prompt_tokens == len(turn_ids(tokenizer, FIRST, first=True)[0])


@pytest.mark.parametrize("kind", sorted(SYSTEMS))
def test_the_memory_is_that_of_having_read_turn_answer_and_end(kind):
    model, tokenizer = chat_model(kind), chat_tokenizer()
    spoken = {"max_new_tokens": 9, "suppress_tokens": [0, 2]}  # what a text leaves out is not read again from it
    one = answer(model, tokenizer, FIRST, None, **spoken)
    before = one.memory.clone()
    two = answer(model, tokenizer, [SECOND], one.memory, **spoken)
    assert states_equal(one.memory, before)
    # All of the turn at once, in a segment of its own.
    told = tokenizer(two.text, add_special_tokens=False)["input_ids"] + closing_ids(tokenizer)
    ids = torch.cat([turn_ids(tokenizer, [SECOND], first=False), torch.tensor([told])], dim=1)
    cache = MemoriaCache(model.config, one.memory)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    for name, value in cache.finished_memory().tensors().items():
        torch.testing.assert_close(two.memory.tensors()[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_turn_is_a_document_that_can_be_forgotten():
    model, tokenizer = chat_model("episodic", **BIG), chat_tokenizer()
    one = answer(model, tokenizer, FIRST, None, source=1, max_new_tokens=3)
    two = answer(model, tokenizer, [SECOND], one.memory, source=2, max_new_tokens=3)
    memory = two.memory
    told = [*said(one.text, *FIRST), {"role": "assistant", "content": two.text}]
    assert tokenizer.decode(memory.text_ids(0)) == whole(tokenizer, told)
    system = "<s>system\nbe kind<e>\n"
    assert memory.sources(0)[0] == len(tokenizer(system, add_special_tokens=False)["input_ids"])
    assert set(memory.sources(0)) == {0, 1, 2}
    left = tokenizer.decode(memory.forget(1).text_ids(0))
    assert left.startswith(f"{system}<s>user\nwho is tom?<e>\n<s>assistant\n")
    assert memory.forget(2).text_ids(0) == one.memory.text_ids(0)


def test_a_preamble_is_what_stands_before_the_first_message():
    tokenizer = chat_tokenizer()
    system = {"role": "system", "content": "be terse"}
    for messages in ([system, SECOND], [system, *said("b", *FIRST)]):
        assert preamble_length(tokenizer, messages) == len("<s>system\nbe terse<e>\n") - 4
    assert preamble_length(chat_tokenizer(WITH_FINAL_END), FIRST) == 0
    in_the_message = [{"role": "system", "content": "be terse"}, *said("b", *FIRST)]
    assert preamble_length(chat_tokenizer(INSTRUCT), in_the_message) == 0


def test_an_answer_that_is_stopped_is_closed():
    class After(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return torch.full(ids.shape[:1], ids.shape[1] >= 40)

    model, tokenizer = chat_model("episodic", **BIG), chat_tokenizer()
    stopped = answer(model, tokenizer, FIRST, None, stopping_criteria=StoppingCriteriaList([After()]))
    assert not stopped.ended
    assert tokenizer.decode(stopped.memory.text_ids(0)).endswith(f"{stopped.text}<e>\n")


@pytest.mark.parametrize(
    ("template", "messages", "told"),
    [
        (None, FIRST, "chat template"),
        (CHAT_TEMPLATE, [], "at least one"),
        (CHAT_TEMPLATE, said("b", *FIRST)[:-1], "the assistant's"),
        (CHAT_TEMPLATE, [{"role": "system", "content": "a"}], "not the system's"),
        (CHAT_TEMPLATE, [{"role": "user"}], "role and content"),
        ("{{ raise_exception('no') }}", FIRST, "refuses messages of .*: no"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", FIRST, "left it out"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(template, messages, told):
    with pytest.raises((ValueError, TypeError), match=told):
        turn_ids(chat_tokenizer(template), messages, first=False)


def test_models_without_memory_and_several_answers_are_refused():
    model, tokenizer = chat_model("episodic"), chat_tokenizer()
    with pytest.raises(ValueError, match="num_beams must be 1"):
        answer(model, tokenizer, FIRST, None, num_beams=2)
    model.config.memory = None
    with pytest.raises(TypeError, match="must have a memory"):
        answer(model, tokenizer, FIRST, None)
