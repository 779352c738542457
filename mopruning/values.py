"""Values as they come from a file or a caller: checked for type and range, with an error that names the place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mopruning.counting import check_sparsity
from mopruning.errors import RecipeError
from mopruning.granularity import NM, Granularity, parse_granularity


def read_number(value: Any, where: str, *, least: float = -math.inf) -> float:
    """Return a finite number as float; text and truth values are none, though Python would convert them.

    Args:
        value: What was given: any integer or float, NumPy's and other libraries' scalars included.
        where: What the number stands for, for the message.
        least: The smallest number accepted.

    Raises:
        RecipeError: If it is no such number.
    """
    if isinstance(value, bool | str | bytes) or not hasattr(type(value), "__float__"):
        raise RecipeError(f"{where} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array, or too large for a float
        raise RecipeError(f"{where} must be a number, got {value!r}") from None
    if not math.isfinite(number) or number < least:
        raise RecipeError(
            f"{where} must be {f'{least:g} or more' if math.isfinite(number) else 'finite'}, got {value!r}"
        )
    return number


def read_whole(value: Any, where: str, *, least: int) -> int:
    """Return a whole number of at least `least`; 3.0 is one, 3.5 raises RecipeError."""
    number = read_number(value, where, least=least)
    if number != int(number):
        raise RecipeError(f"{where} must be a whole number, got {value!r}")
    return int(value)


def read_sparsity(value: Any, where: str) -> float:
    """Return a share from 0 to 1 as float, or raise RecipeError."""
    return check_sparsity(read_number(value, where), where)


def read_flag(value: Any, where: str) -> bool:
    """Return True or False, or raise RecipeError: 0, 1 and "yes" are neither."""
    if not isinstance(value, bool):
        raise RecipeError(f"{where} must be true or false, got {value!r}")
    return value


def read_name(value: Any, where: str) -> str:
    """Return a name that is not empty, or raise RecipeError."""
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{where}: expected the name of a parameter, got {value!r}")
    return value


def read_names(value: Any, where: str) -> tuple[str, ...]:
    """Return several names as a tuple, a single one as one of one; all else raises RecipeError."""
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, Iterable) or isinstance(items, Mapping | bytes):
        raise RecipeError(f"{where}: expected a list of names, got {value!r}")
    return tuple(read_name(item, where) for item in items)


def read_pairs(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping from names as a dict, or raise RecipeError."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping from names, got {value!r}")
    return {read_name(name, where): item for name, item in value.items()}


def read_granularity(value: Any, where: str) -> Granularity:
    """Return a granularity given as an object, its text, or the published "m4n2" (keep 2 of every 4).

    Raises:
        RecipeError: If it is none of these.

    >>> read_granularity("m4n2", "granularity"), read_granularity("bank:64", "granularity")
    (NM(n=2, m=4), BankBalanced(bank=64, tail='dense'))
    """
    if not isinstance(value, Granularity | str):
        raise RecipeError(f"{where} must be a granularity or its text, such as 'bank:64', got {value!r}")
    if isinstance(value, str) and (found := re.fullmatch(r"m(\d+)n(\d+)", value.strip().lower())):
        return NM(int(found[2]), int(found[1]))
    return parse_granularity(value)
