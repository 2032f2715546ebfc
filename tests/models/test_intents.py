"""The intents grammar: what is held out is partly new, and everything follows from the seed."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import models.intents
from models.dataset import split_rows
from models.intents.data import STYLES, load, pools
from models.intents.phrases import INTENTS, SITE_WORDS, WORDS

OPTIONS = {"rows": 900, "seed": 7, "calibration": 0.2, "held_out": 0.3}
RECIPE = Path(models.intents.__path__[0]) / "recipe.yaml"


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    one, two, other = load(**OPTIONS), load(**OPTIONS), load(**{**OPTIONS, "seed": 8})
    assert one.inputs.tolist() == two.inputs.tolist()
    assert one.inputs.tolist() != other.inputs.tolist()
    assert {name: values.tolist() for name, values in one.attributes.items()} == {
        name: values.tolist() for name, values in two.attributes.items()
    }


def test_rows_are_texts_with_a_label_a_style_and_a_site() -> None:
    data = load(**OPTIONS)
    assert data.inputs.dtype.kind == "U" and data.inputs.shape == data.labels.shape == (900,)
    assert data.classes == tuple(INTENTS)
    assert np.bincount(data.labels).tolist() == [900 // len(INTENTS)] * len(INTENTS)
    assert set(data.attributes["style"].tolist()) == set(STYLES)
    assert set(data.attributes["site"].tolist()) == set(SITE_WORDS)
    assert not any("{" in text or "}" in text for text in data.inputs.tolist())
    assert max(map(len, data.inputs.tolist())) < 300


@pytest.mark.parametrize("intent", INTENTS)
def test_no_part_has_the_phrasings_of_another(intent: str) -> None:
    for phrasings in INTENTS[intent]:
        seen, none = pools(phrasings, "train")
        calibration, held_out = (pools(phrasings, part)[1] for part in ("calibration", "held_out"))
        assert none == ()
        assert calibration and held_out and len(seen) >= 4
        assert len({*seen, *calibration, *held_out}) == len(phrasings)


def test_held_out_rows_have_phrasings_that_training_rows_do_not() -> None:
    data = load(**{**OPTIONS, "rows": 3000})
    split = split_rows(3000, seed=7, calibration=0.2, held_out=0.3)
    told = {
        "train": ("illuminate the", 0),
        "held_out": ("illuminate the", 1),
        "calibration": ("give me some light", 1),
    }
    for part, (words, at_least) in told.items():
        found = sum(words in text.lower() for text in data.inputs[getattr(split, part)].tolist())
        assert (found > 0) == (at_least > 0), part


def test_every_local_word_stands_for_one_that_phrasings_use() -> None:
    known = {word for words in WORDS.values() for word in words}
    for words in SITE_WORDS.values():
        assert set(words) <= known
        assert not set(words.values()) & known


def test_the_recipe_splits_as_the_grammar_is_told() -> None:
    data = yaml.safe_load(RECIPE.read_text())["data"]
    for name in ("seed", "calibration", "held_out"):
        assert data[name] == data["options"][name]
