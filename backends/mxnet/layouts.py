"""How the weights of MXNet's layers lie, and what else a network tells of its parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from mopruning.backends.mxnet.framework import gluon, mx
from mopruning.layouts import Layout

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Description:
    """What a network tells of its parameters beyond their values.

    Args:
        layouts: Layout by parameter name, where it is not canonical.
        aliases: Further names -> parameter name: for a Gluon network those of its `.params` files, such as "0.weight".
        shapes: Native shapes by name, where the parameters themselves are not at hand.
        order: Names in the network's order, which a Trainer does not keep: it sorts them.
    """

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def describe(source: object) -> Description:
    """Return what a source of parameters tells of them: most where it is a network, little where it is a list."""
    if isinstance(source, gluon.Block):
        own = {name: parameter.name for name, parameter in source._collect_params_with_prefix().items()}
        further = {name: first for name, first in own.items() if name != first}
        return Description(_block_layouts(source), further, order=tuple(source.collect_params()))
    if isinstance(source, gluon.ParameterDict):
        return Description(order=tuple(source))
    symbol = getattr(source, "symbol", None)
    return Description(symbol_layouts(symbol)) if isinstance(symbol, mx.sym.Symbol) else Description()


def symbol_layouts(symbol: Any) -> dict[str, Layout]:
    """Return the layouts of the convolution weights of a symbol that are not canonical, by name.

    >>> convolution = mx.sym.Convolution(mx.sym.var("x"), num_filter=8, kernel=(3, 3), layout="NHWC", name="conv")
    >>> symbol_layouts(convolution)
    {'conv_weight': Layout(groups=0, channels_last=True, flat=False)}
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    found = {}
    for node in nodes:
        if node["op"] in ("Convolution", "Deconvolution"):
            attributes = node.get("attrs", {})
            weight = nodes[node["inputs"][1][0]]["name"]
            found[weight] = _layout(node["op"], attributes.get("layout"), int(attributes.get("num_group", 1)))
    return {name: layout for name, layout in found.items() if layout != Layout()}


def _block_layouts(root: Any) -> dict[str, Layout]:
    found: dict[str, Layout] = {}
    pending = [root]
    while pending:
        block = pending.pop()
        pending.extend(block._children.values())
        if isinstance(block, gluon.SymbolBlock):
            found |= symbol_layouts(block._cached_graph[1])
        elif isinstance(block, gluon.nn.conv_layers._Conv):
            found[block.weight.name] = _layout(block._op_name, block._kwargs["layout"], block._kwargs["num_group"])
    return {name: layout for name, layout in found.items() if layout != Layout()}


def _layout(operator: str, layout: str | None, groups: int) -> Layout:
    last = layout is not None and layout not in ("None",) and layout.endswith("C")
    return Layout(groups if operator == "Deconvolution" else 0, last)
