"""Parameters wherever MXNet keeps them: in a Gluon network, a Module, or arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mopruning.backends.mxnet.framework import NDArray, gluon, mx
from mopruning.backends.mxnet.layouts import Description
from mopruning.errors import RecipeError, WeightError
from mopruning.layouts import Layout


@dataclass(frozen=True)
class Entry:
    """One parameter, wherever MXNet keeps it.

    Args:
        name: Its name.
        copies: Returns its values on every context.
        gradients: Returns its gradients on every context; none where it has no gradient.
        trains: Tells whether it trains.
        layout: How it lies in its layer.
    """

    name: str
    copies: Callable[[], list[NDArray]]
    gradients: Callable[[], list[NDArray]]
    trains: Callable[[], bool]
    layout: Layout = field(default_factory=Layout)


def entries_of(source: Any, description: Description) -> list[Entry]:
    """Return the parameters of a source that can be differentiated.

    Args:
        source: A Block, a ParameterDict, a Module, a mapping name -> Parameter, NDArray or Entry, an iterable of
            such pairs, or an iterable of Parameters.
        description: What is known of them.

    Raises:
        TypeError: If it is none of these.
        RecipeError: If two parameters have the same name.
    """
    layouts = description.layouts
    if isinstance(source, mx.mod.BaseModule):
        return _module_entries(source, layouts)
    if isinstance(source, gluon.Block):
        source = source.collect_params()
    entries: dict[str, Entry] = {}
    for item in source.items() if hasattr(source, "items") else source:
        name, value = (item.name, item) if isinstance(item, gluon.Parameter) else item
        if isinstance(value, Entry):
            entry = value
        elif isinstance(value, gluon.Parameter):
            if not value._differentiable:  # running statistics, which no optimizer moves
                continue
            entry = _parameter_entry(value, layouts.get(value.name, Layout()))
        elif isinstance(value, NDArray):
            entry = _array_entry(name, value, layouts.get(name, Layout()))
        else:
            raise TypeError(f"{name}: expected a gluon Parameter or an NDArray, got {type(value).__name__}")
        if entry.name in entries:
            raise RecipeError(f"two parameters are called {entry.name!r}; give them names of their own")
        entries[entry.name] = entry
    return list(entries.values())


def remembered(description: Description) -> list[tuple[str, Entry]]:
    """Return parameters of which nothing is known but a description; their values come with their updates."""
    return [
        (name, Entry(name, list, list, lambda: True, description.layouts.get(name, Layout())))
        for name in description.shapes
    ]


def unknown_shapes(source: Any) -> list[str]:
    """Return the names of trained parameters whose initialisation is deferred or has not been asked for."""
    if isinstance(source, mx.mod.BaseModule):
        return [] if source.binded and source.params_initialized else ["(the module is not bound and initialised)"]
    if isinstance(source, gluon.Block):
        source = source.collect_params()
    values = [*source.values()] if hasattr(source, "values") else [*source]
    values = [value[1] if isinstance(value, tuple) else value for value in values]
    return [v.name for v in values if isinstance(v, gluon.Parameter) and v.grad_req != "null" and v._data is None]


def _parameter_entry(parameter: Any, layout: Layout) -> Entry:
    _check_dense(parameter.name, parameter._stype)
    return Entry(
        parameter.name,
        lambda: [classic(array) for array in parameter.list_data()] if parameter._data is not None else [],
        lambda: [classic(array) for array in parameter.list_grad()] if parameter.grad_req != "null" else [],
        lambda: parameter.grad_req != "null",
        layout,
    )


def _array_entry(name: str, array: NDArray, layout: Layout) -> Entry:
    array = classic(array)
    _check_dense(name, array.stype)
    return Entry(name, lambda: [array], lambda: [] if array.grad is None else [array.grad], lambda: True, layout)


def _module_entries(module: Any, layouts: Mapping[str, Layout]) -> list[Entry]:
    def arrays(kind: str, name: str) -> list[NDArray]:
        group = _executors(module)
        return [array for array in getattr(group, kind)[group.param_names.index(name)] if array is not None]

    def entry(name: str) -> Entry:
        return Entry(
            name,
            lambda: arrays("param_arrays", name),
            lambda: arrays("grad_arrays", name),
            lambda: bool(arrays("grad_arrays", name)),
            layouts.get(name, Layout()),
        )

    return [entry(name) for name in _executors(module).param_names]


def _check_dense(name: str, stored: str) -> None:
    if stored != "default":
        raise WeightError(f"{name}: weights stored as {stored} cannot be pruned; use dense weights, stype='default'")


def _executors(module: Any) -> Any:
    module = getattr(module, "_curr_module", module)  # of a BucketingModule, whose buckets share their weights
    group = getattr(module, "_exec_group", None)
    if group is None:
        raise TypeError(f"expected a bound Module or BucketingModule, got {type(module).__name__}")
    return group


def classic(array: Any) -> NDArray:
    """Return an array as the kind of NDArray that optimizers work on, sharing its memory."""
    return array.as_nd_ndarray() if isinstance(array, mx.np.ndarray) else array
