"""The intents data: short orders and remarks to a building's maintenance assistant, made by a grammar.

A row is a phrasing of its intent, filled with words, in one of four styles, with what people put around it,
sometimes with a word swallowed or a slip of the finger. Everything follows from `seed`. The grammar is
given the recipe's split: rows that calibrate and rows that are held out take a tenth of their sentences
from phrasings of their own, which no other part has, so accuracy there tells of words that nobody foresaw.
"""

from __future__ import annotations

import numpy as np

from models.dataset import Dataset, split_rows
from models.intents.phrases import INTENTS, POLITE, SITE_WORDS, SPOKEN, WORDS

STYLES = ("terse", "polite", "spoken", "indirect")
UNSEEN_SHARE = 0.1
TYPO_ROWS = 0.15
SWALLOWED_ROWS = 0.25
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def load(*, rows: int, seed: int, calibration: float, held_out: float) -> Dataset:
    """That many rows, intents in turn; attributes `style` and `site`. `seed`, `calibration` and `held_out`
    must be those of the recipe's split."""
    split = split_rows(rows, seed=seed, calibration=calibration, held_out=held_out)
    parts = np.empty(rows, dtype="<U12")
    for name in ("train", "calibration", "held_out"):
        parts[getattr(split, name)] = name
    names, sites = tuple(INTENTS), tuple(SITE_WORDS)
    texts: list[str] = []
    styles: list[str] = []
    places: list[str] = []
    for row in range(rows):
        # A generator a row: what one row says does not hang on how many numbers another took.
        rng = np.random.default_rng((seed, row))
        style, site = STYLES[int(rng.integers(len(STYLES)))], sites[int(rng.integers(len(sites)))]
        texts.append(sentence(rng, names[row % len(names)], style, site, str(parts[row])))
        styles.append(style)
        places.append(site)
    return Dataset(
        inputs=np.array(texts),
        labels=np.arange(rows, dtype=np.int64) % len(names),
        classes=names,
        source=f"{rows} sentences made by the grammar in models/intents/phrases.py",
        license="CC0-1.0",
        attributes={"style": np.array(styles), "site": np.array(places)},
    )


def sentence(rng: np.random.Generator, intent: str, style: str, site: str, part: str) -> str:
    """One sentence, as one of `part` may have it."""
    phrasings = INTENTS[intent].indirect if style == "indirect" else INTENTS[intent].direct
    seen, unseen = pools(phrasings, part)
    pool = unseen if unseen and rng.random() < UNSEEN_SHARE else seen
    text = _filled(rng, pool[int(rng.integers(len(pool)))], site)
    around = {"polite": POLITE, "spoken": SPOKEN}.get(style)
    if around is not None:
        text = around[int(rng.integers(len(around)))].format(text)
    words = text.split()
    if rng.random() < SWALLOWED_ROWS and len(words) > 3:
        text = " ".join(np.delete(words, rng.integers(len(words))))
    if rng.random() < TYPO_ROWS:
        text = _mistyped(rng, text)
    if rng.random() < 0.3:
        text = text[:1].upper() + text[1:] + ("?" if rng.random() < 0.2 else ".")
    return text


def pools(phrasings: tuple[str, ...], part: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The phrasings that every part has, and those that `part` has for itself (training rows: none)."""
    own = len(phrasings) // 5
    seen = phrasings[: -2 * own]
    return seen, {
        "train": (),
        "calibration": phrasings[-2 * own : -own],
        "held_out": phrasings[-own:],
    }[part]


def _filled(rng: np.random.Generator, phrasing: str, site: str) -> str:
    chosen = {name: words[int(rng.integers(len(words)))] for name, words in WORDS.items()}
    local = SITE_WORDS[site]
    return phrasing.format(**{name: local.get(word, word) for name, word in chosen.items()})


def _mistyped(rng: np.random.Generator, text: str) -> str:
    """One slip: two letters in the wrong order, one left out, doubled, or another in its place."""
    at = int(rng.integers(len(text) - 1))
    left, one, two, right = text[:at], text[at], text[at + 1], text[at + 2 :]
    other = _LETTERS[int(rng.integers(len(_LETTERS)))]
    slips = (two + one, two, one + one + two, other + two)
    return left + slips[int(rng.integers(len(slips)))] + right
