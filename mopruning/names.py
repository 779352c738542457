"""Parameter names: wrapper prefixes, globs, and the nearest name where one is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from mopruning.errors import RecipeError, unknown_name

_GLOB = frozenset("*?[")


def stripped(name: str) -> str:
    """Return a name without what frameworks add: `module.` (data parallel), `_orig_mod.` (compiled) and an end `:0`.

    The last is the number of the output that a TensorFlow 1 variable is, of the operation that has its name.

    >>> stripped("module._orig_mod.features.0.weight"), stripped("conv1/weights:0")
    ('features.0.weight', 'conv1/weights')
    """
    parts = [part for part in name.removesuffix(":0").split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module" and parts[1]:
        parts = parts[1:]
    return ".".join(parts) or name


class Names:
    """The parameter names of a network, looked up by name or glob with wrapper prefixes ignored on both sides.

    Args:
        names: Every parameter name, in the network's order.

    >>> names = Names(["module.conv1.weight", "module.fc.weight"])
    >>> names.find("conv1.weight"), names.find("*.weight")
    ((['module.conv1.weight'], True), (['module.conv1.weight', 'module.fc.weight'], False))
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_core: dict[str, list[str]] = {}
        self._all = list(names)
        self._known = set(self._all)
        for name in self._all:
            self._by_core.setdefault(stripped(name), []).append(name)

    def find(self, key: str) -> tuple[list[str], bool]:
        """Return the names that a name or glob means, and whether it is one exact name."""
        if key in self._known:
            return [key], True
        if same := self._by_core.get(stripped(key)):
            return list(same), True
        if _GLOB.isdisjoint(key):
            return [], True
        # as written first: a network may have a module of its own that is called `module`
        found = [name for name in self._all if fnmatchcase(name, key)]
        core = stripped(key)
        return found or [name for name in self._all if fnmatchcase(stripped(name), core)], False

    def require(self, key: str, where: str) -> tuple[list[str], bool]:
        """Return what `find` does, or raise UnknownNameError with the nearest names where that is nothing."""
        found, exact = self.find(key)
        if not found:
            raise unknown_name(key, self._all, where=where)
        return found, exact


def check_choice(value: object, known: Collection[str], where: str) -> str:
    """Return `value` where it is one of the known words, or raise RecipeError with the nearest ones.

    Args:
        value: What was given.
        known: The words that are accepted.
        where: What the word stands for, such as "recipe: score".
    """
    if isinstance(value, str) and value in known:
        return value
    words = sorted(known)
    near = difflib.get_close_matches(str(value), words, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(words)}"
    raise RecipeError(f"{where} {value!r} is unknown; {hint}")
