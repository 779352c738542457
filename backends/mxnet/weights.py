"""Parameters of an MXNet network as the core sees them: names, canonical arrays, and erasing by mask."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from mopruning.backends.mxnet.entries import Entry, entries_of, unknown_shapes
from mopruning.backends.mxnet.framework import Context, NDArray, mx
from mopruning.backends.mxnet.layouts import Array, Description, describe
from mopruning.errors import StateError


def spread(array: NDArray) -> NDArray:
    """Return an array stored by rows as a dense one; a dense one as it is."""
    return array if array.stype == "default" else array.tostype("default")


class Weights(Mapping[str, Array]):
    """Parameters by name, each looked up as a canonical NumPy array of its present values.

    Args:
        source: As `entries_of` takes it.
        description: What is known of the parameters; by default what `source` itself tells.

    Attributes:
        entries: The parameters.
        aliases: Further names of parameters -> their name.
        current: Values that count in place of the parameter's own, by name: those of a store that updates run on.

    Raises:
        StateError: If the shape of a trained parameter is not known yet.
        WeightError: If a parameter is stored by rows.
    """

    def __init__(self, source: Any, description: Description | None = None) -> None:
        if missing := unknown_shapes(source):
            raise StateError(
                f"{', '.join(missing[:5])}: not initialised yet; run a batch through the network, or give in_units "
                "and in_channels, then ask again"
            )
        description = describe(source) if description is None else description
        self.entries: dict[str, Entry] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        places = {name: place for place, name in enumerate(description.order)}
        for entry in sorted(entries_of(source, description), key=lambda entry: places.get(entry.name, len(places))):
            copies = entry.copies()
            if copies or entry.name in description.shapes:
                self.entries[entry.name] = entry
                self._shapes[entry.name] = copies[0].shape if copies else description.shapes[entry.name]
        self.aliases = {further: name for further, name in description.aliases.items() if name in self.entries}
        self.current: dict[str, NDArray] = {}

    def __getitem__(self, name: str) -> Array:
        array = self.current[name] if name in self.current else self.entries[name].copies()[0]
        return self.canonical(name, array)

    def __contains__(self, name: object) -> bool:  # Mapping's own would fetch the values
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def canonical(self, name: str, array: NDArray) -> Array:
        """Return an array that is laid out like a parameter, dense or by rows, as a canonical NumPy array."""
        canonical: Array = self.entries[name].layout.to_canonical(spread(array).asnumpy())
        return canonical

    def arrays(self, name: str) -> list[NDArray]:
        """Return every array that holds a parameter's values."""
        arrays = [*self.entries[name].copies(), *([self.current[name]] if name in self.current else [])]
        return [*{id(array): array for array in arrays}.values()]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shapes by name."""
        return {name: entry.layout.shape(self._shapes[name]) for name, entry in self.entries.items()}

    @property
    def description(self) -> Description:
        """What a copy of these needs to know, where it meets the values only as they are updated."""
        layouts = {name: entry.layout for name, entry in self.entries.items()}
        return Description(layouts, self.aliases, self._shapes, tuple(self.entries))

    @property
    def frozen(self) -> Collection[str]:
        """Names of parameters that do not train."""
        return [name for name, entry in self.entries.items() if not entry.trains()]

    def gradients(self) -> dict[str, Array]:
        """Return the canonical gradients of all parameters that have one, added up over the contexts."""
        return {
            name: self.canonical(name, gradients[0])
            if len(gradients) == 1
            else np.sum([self.canonical(name, gradient) for gradient in gradients], axis=0)
            for name, entry in self.entries.items()
            if (gradients := entry.gradients())
        }

    def eraser(self, name: str, mask: Array) -> Eraser:
        """Return what zeroes a parameter, or any array laid out like it, where the canonical `mask` is False."""
        return Eraser(self.entries[name].layout.to_native(mask))


class Eraser:
    """Zeroes the pruned positions of arrays that are laid out like one parameter.

    A choice between value and zero, unlike a product, also turns NaN, infinity and negative numbers into +0.

    Args:
        keep: Bool array of the parameter's native shape, True = keep.
    """

    def __init__(self, keep: Array) -> None:
        self._keep = np.ascontiguousarray(keep)
        self._masks: dict[Context, NDArray] = {}

    def erase(self, array: NDArray) -> None:
        """Zero the pruned positions of a dense `array` in place."""
        context = array.context
        if context not in self._masks:
            self._masks[context] = mx.nd.empty(self._keep.shape, ctx=context, dtype="uint8")
            self._masks[context][:] = self._keep
        mx.nd.where(self._masks[context], array, _zeros(array), out=array)

    def fits(self, array: object) -> bool:
        """Tell whether `array` is dense and has the shape of the parameter."""
        return isinstance(array, NDArray) and array.shape == self._keep.shape and array.stype == "default"


_NOTHING: dict[tuple[Context, Any], NDArray] = {}  # `where` wants as many zeros as it has values: all share the longest


def _zeros(like: NDArray) -> NDArray:
    key = (like.context, like.dtype)
    if key not in _NOTHING or _NOTHING[key].size < like.size:
        _NOTHING[key] = mx.nd.zeros((like.size,), ctx=like.context, dtype=like.dtype)
    return _NOTHING[key][: like.size].reshape(like.shape)
