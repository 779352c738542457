"""Parameters of a PyTorch network as the core sees them: names, canonical views, and erasing by mask."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mopruning.backends.pytorch.sharding import local
from mopruning.errors import RecipeError
from mopruning.layouts import Layout

Named: TypeAlias = "nn.Module | Iterable[tuple[str, Tensor]]"


def layout_of(module: nn.Module | None, attribute: str) -> Layout:
    """Return the layout of a module's parameter.

    Convolutions, linear layers, the stacked gates of LSTM and GRU, and the joined projections of
    MultiheadAttention are canonical as they are; an Embedding is read as [rows, features]. Transposed
    convolutions have their channels swapped.

    >>> layout_of(nn.ConvTranspose2d(4, 6, 3, groups=2), "weight").groups
    2
    """
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) and attribute == "weight":
        return Layout(module.groups)
    return Layout()


def module_of(source: object) -> nn.Module | None:
    """Return the module that parameters come from: itself, or that of an unused `module.named_parameters()`.

    Names alone do not tell how a weight lies. The generators that `named_parameters` and `parameters` return know
    their module (in torch 2.13); of a list made of them nothing is known.
    """
    if isinstance(source, GeneratorType):
        source = inspect.getgeneratorlocals(source).get("self")
    return source if isinstance(source, nn.Module) else None


def layouts_of(modules: Iterable[nn.Module]) -> dict[int, Layout]:
    """Return the layout of every parameter of some modules by its identity (`id`)."""
    return {
        id(parameter): layout_of(module, attribute)
        for root in modules
        for module in root.modules()
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }


class Weights(Mapping[str, Tensor]):
    """Parameters by name, each seen as a canonical, detached tensor that shares its memory.

    Of a parameter that ranks share out (`DTensor`), what lies here is seen; its shape is that of the whole.

    Args:
        source: A module, or (name, parameter) pairs, such as `model.named_parameters()`.
        only: Identities (`id`) of the parameters to take; all where None. The others are put aside, and known by
            their name should they come later.
        layouts: How parameters lie, by identity, where `source` does not tell; others are taken as canonical.

    Attributes:
        parameters: Native parameters by name; a tied parameter stands under its first name.
        aliases: Further names of tied parameters -> their first name.

    Raises:
        RecipeError: If two parameters have the same name.
    """

    def __init__(
        self, source: Named, only: Collection[int] | None = None, layouts: Mapping[int, Layout] | None = None
    ) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        self._layouts: dict[str, Layout] = {}
        self._aside: dict[str, tuple[Tensor, Layout]] = {}
        self.extend(source, only, layouts)

    def extend(
        self, source: Named, only: Collection[int] | None = None, layouts: Mapping[int, Layout] | None = None
    ) -> None:
        """Add parameters in place; one that is there already is passed over."""
        module = module_of(source)
        known = {**(layouts or {}), **({} if module is None else layouts_of([module]))}
        named = source.named_parameters(remove_duplicate=False) if isinstance(source, nn.Module) else source
        first = {id(parameter): name for name, parameter in self.parameters.items()}
        aside = {id(parameter): name for name, (parameter, _) in reversed(self._aside.items())}
        for name, parameter in named:
            layout = known.get(id(parameter), Layout())
            if id(parameter) in first:
                if first[id(parameter)] != name and name not in self.parameters:
                    self.aliases[name] = first[id(parameter)]
                continue
            if only is not None and id(parameter) not in only:
                self._aside.setdefault(name, (parameter, layout))
                continue
            if id(parameter) in aside:
                name = aside[id(parameter)]
                layout = self._aside.pop(name)[1]
            if name in self.parameters:
                raise RecipeError(
                    f"two parameters are called {name!r}; give them names of their own, "
                    "such as [(f'encoder.{name}', p) for name, p in encoder.named_parameters()]"
                )
            first[id(parameter)] = name
            self.parameters[name] = parameter
            self._layouts[name] = layout

    def __getitem__(self, name: str) -> Tensor:
        canonical: Tensor = self._layouts[name].to_canonical(local(self.parameters[name].detach()))
        return canonical

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shapes by name."""
        return {name: self._layouts[name].shape(tuple(self.parameters[name].shape)) for name in self}

    def layout(self, name: str) -> Layout:
        """Return how a parameter lies."""
        return self._layouts[name]

    @property
    def frozen(self) -> Collection[str]:
        """Names of parameters that do not train."""
        return [name for name, parameter in self.parameters.items() if not parameter.requires_grad]

    def gradients(self) -> dict[str, Tensor]:
        """Return the canonical gradients of all parameters that have one; sparse ones are spread out."""
        return {
            name: self._layouts[name].to_canonical(_dense(local(parameter.grad.detach())))
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
        }

    def eraser(self, name: str, mask: Tensor | np.ndarray[Any, Any]) -> Eraser:
        """Return what zeroes a parameter, or any tensor laid out like it, where the canonical `mask` is False."""
        keep = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
        return Eraser(local(self.parameters[name].detach()), self._layouts[name].to_native(keep))


class Eraser:
    """Zeroes the pruned positions of tensors that are laid out like one parameter.

    On a CPU this is a bitwise AND with a mask of -1 and 0, which torch widens to all-ones and all-zeros words: twice
    as fast as a product with a bool mask, and unlike any product it turns NaN, infinity and negative numbers into
    +0. Elsewhere it is a masked fill.

    Args:
        parameter: The parameter, or what lies here of it.
        keep: Bool tensor of its native shape, True = keep.
    """

    def __init__(self, parameter: Tensor, keep: Tensor) -> None:
        like = parameter.detach()
        self._bitwise = like.device.type == "cpu" and like.is_floating_point()
        # empty_like keeps the memory format of the parameter
        self._mask = torch.empty_like(like, dtype=torch.int8 if self._bitwise else torch.bool)
        if self._bitwise:
            self._mask.copy_(keep).neg_()
        else:
            self._mask.copy_(keep.to(like.device)).logical_not_()

    def erase(self, tensor: Tensor) -> None:
        """Zero the pruned positions of `tensor`, dense, sparse (COO) or shared out (`DTensor`), in place."""
        tensor = local(tensor.detach())
        if tensor.is_sparse:  # zeroing each entry also holds where several add up to one position
            self._erase(tensor._values(), self._mask[tuple(tensor._indices())])
        else:
            self._erase(tensor, self._mask)

    def _erase(self, tensor: Tensor, mask: Tensor) -> None:
        words = _WORDS.get(tensor.element_size()) if self._bitwise and tensor.is_floating_point() else None
        if words:
            tensor.view(words).bitwise_and_(mask)
        else:
            tensor.masked_fill_(mask == 0 if self._bitwise else mask, 0)

    def fits(self, tensor: object) -> bool:
        """Tell whether `tensor` has the shape of the parameter."""
        return isinstance(tensor, Tensor) and local(tensor).shape == self._mask.shape


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
