"""JSON text from a file that nobody vouches for: strict, compact, and with one kind of error."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from mopruning.errors import FormatError


def compact(content: Any) -> str:
    """Write JSON without a superfluous byte.

    Raises:
        FormatError: If a number is infinite or NaN, text is no Unicode, or something is neither.

    >>> compact({"shape": [2, "N"]})
    '{"shape":[2,"N"]}'
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot be written as JSON: {error}") from None
    return text


def parse(text: str) -> Any:
    """Read JSON; a key that is given twice, NaN and infinity are errors.

    Raises:
        FormatError: If it is no such JSON.

    >>> parse('{"shape":[2,"N"]}')
    {'shape': [2, 'N']}
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is no JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is no finite number")
    return number


def expect(holds: bool, where: str, expected: str, got: Any) -> None:
    """Raise FormatError unless something holds, saying what was expected where and what came.

    >>> expect(False, "outputs", "a list", 3)
    Traceback (most recent call last):
    ...
    mopruning.errors.FormatError: outputs: expected a list, got 3
    """
    if not holds:
        raise FormatError(f"{where}: expected {expected}, got {repr(got)[:200]}")


def items(content: Any, where: str) -> list[Any]:
    """Return a list that JSON holds, or raise FormatError."""
    expect(isinstance(content, list), where, "a list", content)
    return content  # type: ignore[no-any-return]


def texts(content: Any, where: str) -> list[str]:
    """Return a list of texts that JSON holds, or raise FormatError."""
    expect(
        isinstance(content, list) and all(isinstance(one, str) for one in content), where, "a list of texts", content
    )
    return content  # type: ignore[no-any-return]


def sizes(content: Any, where: str, *, names: bool = False) -> list[Any]:
    """Return the shape of a tensor that JSON holds, or raise FormatError.

    Args:
        content: What JSON holds.
        where: The place, for messages.
        names: Whether an axis may be open: null, or a text.
    """
    shape = items(content, where)
    fits = len(shape) <= 32 and all(  # as many axes as NumPy 1 allows
        (type(size) is int and 0 <= size < 2**63) or (names and (size is None or isinstance(size, str)))
        for size in shape
    )
    expect(fits, where, "a shape", content)
    return shape
