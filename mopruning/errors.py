"""Every error the toolkit raises on purpose: one base class, one class for each kind of mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MopruningError(Exception):
    """Base of all errors raised on purpose; the command line prints them as one line."""


class RecipeError(MopruningError, ValueError):
    """A recipe, schedule or sparsity that asks for something impossible."""


class UnknownNameError(RecipeError):
    """A name or pattern in a recipe that matches no parameter."""


class WeightError(MopruningError, ValueError):
    """A weight or score that cannot be ranked: NaN, infinite, or of a wrong shape."""


class StateError(MopruningError, ValueError):
    """A saved state that belongs to another plan or is damaged."""


class FormatError(MopruningError, ValueError):
    """A file that is damaged, unsafe or not in the format its name says."""


class GranularityWarning(UserWarning):
    """A weight that its granularity does not fit and that is therefore left dense."""


def unknown_name(name: str, known: Iterable[str], *, where: str) -> UnknownNameError:
    """Build the error for a name that matches nothing, offering the nearest known names.

    Args:
        name: What was asked for.
        known: Every name that would have been accepted.
        where: The place the name stands in, such as "prune_dict".
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif names:
        shown = ", ".join(repr(n) for n in names[:5])
        hint = f"known names: {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    else:
        hint = "there are no parameters at all"
    return UnknownNameError(f"{where}: {name!r} matches no parameter; {hint}")
