"""The catalog finds models and facts, suggests near names, and every record says where it comes from."""

import pytest

from utils import catalog


def test_every_model_has_a_configuration_and_sources():
    models = catalog.models()
    assert len(models) == len({model.name for model in models}) == 27
    for model in models:
        sources = model.facts["sources"]
        assert sources and all(source.strip() for source in sources), model.name
        assert model.model_type


@pytest.mark.parametrize("name", ["DeepSeek-V3", "deepseek-v3", "deepseek-ai/DeepSeek-V3", " DeepSeek-V3 "])
def test_names_and_hub_ids_find_the_model(name):
    assert catalog.get(name).exact_total == 671_026_404_352


def test_a_near_miss_suggests_the_right_name():
    with pytest.raises(KeyError, match=r"'DeepSeekV3'.*Did you mean DeepSeek-V3"):
        catalog.get("DeepSeekV3")


def test_a_name_like_nothing_lists_what_there_is():
    with pytest.raises(KeyError, match=r"Known: deepseek-llm-7b-base,.*DeepSeek-R1-Distill-Llama-70B"):
        catalog.get("zzz")


def test_training_facts_are_filtered_and_carry_their_source():
    facts = catalog.training_facts("DeepSeek-V3", topic="clip") + catalog.training_facts("DeepSeek-V3", "optimizer")
    assert any(isinstance(fact.value, dict) and fact.value.get("clip") == 1.0 for fact in facts)
    assert catalog.training_facts(topic="llm.INT8") == catalog.training_facts("claim-check", "LLM.int8") != ()
    assert all(fact.source and fact.status for fact in catalog.training_facts())
    assert {fact.status for fact in catalog.training_facts()} <= {
        "seen_primary",
        "seen_secondary",
        "derived",
        "memory_unverified",
    }


def test_facts_of_an_unknown_model_name_the_known_ones():
    with pytest.raises(KeyError, match=r"no training facts for 'GPT'.*DeepSeek-V3"):
        catalog.training_facts("GPT")
