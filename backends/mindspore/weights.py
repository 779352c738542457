"""Parameters of a MindSpore network as the core sees them: names, canonical views, and erasing by mask."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops

from mopruning.errors import RecipeError
from mopruning.layouts import Layout

Host: TypeAlias = "np.ndarray[Any, Any]"
Named: TypeAlias = "nn.Cell | Iterable[Parameter | tuple[str, Parameter]]"

_TRANSPOSED = (nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose, mint.nn.ConvTranspose2d)
_STATISTICS = ("moving_mean", "moving_variance")  # of normalisation: MindSpore keeps them as parameters


def layout_of(cell: nn.Cell | None, attribute: str) -> Layout:
    """Return the layout of a Cell's parameter.

    2-D and 3-D convolutions, Dense, the stacked gates of LSTM and GRU, and the joined projections of
    MultiheadAttention are canonical as they are; an Embedding is read as [rows, features]. Transposed convolutions
    have their channels swapped, and 1-D convolutions lie as 2-D ones of height 1.

    >>> layout_of(nn.Conv1dTranspose(4, 6, 3), "weight")
    Layout(groups=1, channels_last=False, flat=True)
    """
    if attribute != "weight" or cell is None:
        return Layout()
    groups = getattr(cell, "group", 0) or getattr(cell, "groups", 0)  # nn and mint have a word for it each
    return Layout(
        groups=int(groups) if isinstance(cell, _TRANSPOSED) else 0,
        channels_last=isinstance(cell, nn.Conv2d) and cell.data_format == "NHWC",
        flat=isinstance(cell, (nn.Conv1d, nn.Conv1dTranspose)),
    )


def cell_of(source: object) -> nn.Cell | None:
    """Return the Cell that parameters come from: itself, or that of an unused `net.parameters_and_names()`.

    Names alone do not tell how a weight lies. The generators that `parameters_and_names` and `get_parameters` return
    know their Cell (in MindSpore 2.10); of a list, such as `trainable_params()`, nothing is known.
    """
    if isinstance(source, GeneratorType):
        source = inspect.getgeneratorlocals(source).get("self")
    return source if isinstance(source, nn.Cell) else None


def parameters_of(source: Any) -> list[Any]:
    """Return what a native optimizer takes as its parameters: those of a Cell that train, or a list as it is.

    Pairs of name and parameter, such as `net.parameters_and_names()`, lose the names, which the parameters know.
    """
    if isinstance(source, nn.Cell):
        return list(source.trainable_params())
    members = [one[1] if isinstance(one, tuple) else one for one in source]
    return [one for one in members if one.requires_grad] if isinstance(source, GeneratorType) else members


class Weights(Mapping[str, Host]):
    """Parameters by name, each seen as a canonical array of its present values.

    Args:
        parameters: The parameters; where None, those of `source`, without the running statistics of normalisation.
        source: A Cell, or (name, parameter) pairs, that tell layouts and further names.

    Attributes:
        parameters: Native parameters by name.
        aliases: Further names of parameters -> their own: names of tied ones, and those that `source` calls them by.

    Raises:
        RecipeError: If two parameters have the same name, or `source` knows none of the parameters.
    """

    def __init__(self, parameters: Iterable[Parameter] | None, source: Named | None = None) -> None:
        cell = cell_of(source)
        places = [] if source is None else list(_places(cell) if cell is not None else _as_places(source))
        if parameters is None:
            members = {id(p): p for name, p, _ in places if name.rpartition(".")[2] not in _STATISTICS}
            parameters = members.values()
        self.parameters: dict[str, Parameter] = {}
        for parameter in parameters:
            if parameter.name in self.parameters:
                raise RecipeError(
                    f"two parameters are called {parameter.name!r}; make both layers attributes of one Cell, which "
                    "names them by their place"
                )
            self.parameters[parameter.name] = parameter
        known = {id(parameter) for parameter in self.parameters.values()}
        places = [place for place in places if id(place[1]) in known]
        if source is not None and known and not places:
            raise RecipeError("param_name names none of the optimizer's parameters; is it of another model?")
        self._layouts = {parameter.name: layout for _, parameter, layout in places}
        self.aliases = {name: p.name for name, p, _ in places if name not in self.parameters}

    def __getitem__(self, name: str) -> Host:
        parameter = self.parameters[name]
        if parameter.has_init:
            parameter.init_data()  # created under no_init_parameters(); asked for values first, it keeps these
        return self.to_canonical(name, parameter.asnumpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shapes by name."""
        return {name: self._layout(name).shape(parameter.shape) for name, parameter in self.parameters.items()}

    @property
    def frozen(self) -> Collection[str]:
        """Names of parameters that do not train."""
        return [name for name, parameter in self.parameters.items() if not parameter.requires_grad]

    def to_canonical(self, name: str, array: Host) -> Host:
        """Return an array laid out like a parameter as a canonical one; bfloat16, which NumPy lacks, as float32."""
        standard = array if array.dtype.kind in "fiub" else array.astype(np.float32)
        canonical: Host = self._layout(name).to_canonical(standard)
        return canonical

    def to_native(self, name: str, array: Host) -> Host:
        """Return a canonical array laid out as the parameter is, in C order."""
        return np.ascontiguousarray(self._layout(name).to_native(array))

    def _layout(self, name: str) -> Layout:
        return self._layouts.get(name, Layout())


def slots_of(optimizer: nn.Optimizer, parameter: Parameter) -> list[Parameter]:
    """Return what an optimizer remembers of a parameter element by element.

    MindSpore names such state after the parameter, as in "moments.conv1.weight"; of several parameters whose name
    fits, it belongs to the one with the longest.
    """
    own = {id(one) for one in optimizer.parameters}

    def owner(name: str) -> str:
        return max((one.name for one in optimizer.parameters if name.endswith(one.name)), key=len, default="")

    return [
        state
        for state in optimizer.get_parameters()
        if id(state) not in own and state.shape == parameter.shape and owner(state.name) == parameter.name
    ]


def write(parameter: Parameter, value: Host) -> None:
    """Give a parameter a value in place.

    Not by `set_data`, which gives it other memory: an update that is compiled already goes on in the former one
    (MindSpore 2.10). A value that is there already is not written again, for comparing is cheaper than an operator.
    """
    if not np.array_equal(_bytes(parameter.asnumpy()), _bytes(value)):
        ops.assign(parameter, Tensor(value, parameter.dtype))


def erase(parameter: Parameter, keep: Tensor) -> None:
    """Zero in place what lies where `keep` is False; whatever it was, +0 comes out, also of NaN and infinity."""
    if _on_host():
        write(parameter, _where(keep, parameter))
    else:
        ops.assign(parameter, erased(parameter, keep))


def erased(tensor: Tensor, keep: Tensor) -> Tensor:
    """Return a tensor with +0 where `keep` is False."""
    if _on_host():
        return Tensor(_where(keep, tensor), tensor.dtype)
    return ops.select(keep, tensor, ops.zeros_like(tensor))  # MaskedFill rounds float64 to float32 (MindSpore 2.10)


def _on_host() -> bool:
    """Tell whether tensors lie in the host's memory, where NumPy takes a tenth of the time of single operators."""
    return bool(ms.get_context("device_target") == "CPU")


def _where(keep: Tensor, tensor: Tensor) -> Host:
    values = tensor.asnumpy()
    return np.where(keep.asnumpy(), values, np.zeros((), values.dtype))


def _bytes(array: Host) -> Host:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _places(root: nn.Cell) -> Iterator[tuple[str, Parameter, Layout]]:
    """Yield every parameter with the path it is reached by and its layout; a tied one once for each of its places."""
    for path, cell in root.cells_and_names():
        for attribute, parameter in cell._params.items():
            if parameter is not None:
                yield f"{path}.{attribute}" if path else attribute, parameter, layout_of(cell, attribute)


def _as_places(source: Any) -> Iterator[tuple[str, Parameter, Layout]]:
    for one in source:
        yield *(one if isinstance(one, tuple) else (one.name, one)), Layout()
