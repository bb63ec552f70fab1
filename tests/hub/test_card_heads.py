"""The card of each head: how it is loaded, and what the Hub takes it for."""

import re

import pytest
import transformers
from families import CASES, memoria_class, small_memory, tiny_config, tiny_model

from hf_memoria.hub.card import describe, make_card


def card_of(model):
    return make_card(model, describe(model, "me/mine"))


@pytest.mark.parametrize(("family", "head"), CASES)
def test_the_auto_class_that_it_names_makes_such_a_model(family, head):
    model = tiny_model(family, head, small_memory())
    (named,) = set(re.findall(r"from transformers import (\w+)", str(card_of(model))))
    assert type(getattr(transformers, named).from_config(model.config)) is type(model)


def test_a_class_of_a_user_s_own_is_what_it_is_derived_from():
    class Librarian(memoria_class("GPT2", "ForCausalLM")):
        """Its name says nothing of its head."""

    card = card_of(Librarian(tiny_config("GPT2", small_memory())))
    assert "from transformers import AutoModelForCausalLM" in str(card)
    assert card.data.pipeline_tag == "text-generation"
