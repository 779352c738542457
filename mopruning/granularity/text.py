"""The text form of a granularity, as written on the command line and in YAML."""

from __future__ import annotations

import re

from mopruning.errors import RecipeError
from mopruning.granularity.balanced import NM, Balanced, BankBalanced, Unstructured
from mopruning.granularity.base import Granularity
from mopruning.granularity.pattern import KernelPattern
from mopruning.granularity.units import Block, Channel, Filter, Stripe

FORMS = (
    "unstructured, bank:64, bank:64:balance, 2:4, filter, filter:group, channel, stripe, pattern, pattern:5, "
    "block:4x4, balanced:-1x4x-1x1"
)

_PLAIN: dict[str, type[Granularity]] = {
    "unstructured": Unstructured,
    "bank": BankBalanced,
    "filter": Filter,
    "channel": Channel,
    "stripe": Stripe,
    "pattern": KernelPattern,
    "block": Block,
}


def parse_granularity(text: str | Granularity) -> Granularity:
    """Read a granularity from its text; an object that is one already comes back as it is.

    Raises:
        RecipeError: If the text is none of the known forms.

    >>> parse_granularity("bank:64"), parse_granularity("2:4"), parse_granularity("block:4x4")
    (BankBalanced(bank=64, tail='dense'), NM(n=2, m=4), Block(shape=(4, 4)))
    """
    if isinstance(text, Granularity):
        return text
    word = str(text).strip().lower()
    if word in _PLAIN:
        return _PLAIN[word]()
    if word == "filter:group":
        return Filter(group=True)
    if found := re.fullmatch(r"(\d+):(\d+)", word):
        return NM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"bank:(\d+)(:balance)?", word):
        return BankBalanced(int(found[1]), "balance" if found[2] else "dense")
    if found := re.fullmatch(r"block:(\d+(?:x\d+)*)", word):
        return Block(tuple(map(int, found[1].split("x"))))
    if found := re.fullmatch(r"balanced:(-?\d+(?:x-?\d+)*)", word):
        return Balanced(tuple(map(int, found[1].split("x"))))
    if found := re.fullmatch(r"pattern:(\d)", word):
        return KernelPattern(int(found[1]))
    if found := re.fullmatch(r"pattern:([01,]+)", word):
        return KernelPattern(patterns=tuple(found[1].split(",")))
    raise RecipeError(f"unknown granularity {text!r}; known forms: {FORMS}")
