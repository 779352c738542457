"""Tying: weights that a network had under several names get all of them back, as one parameter."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir
from torch import Tensor, nn

from mopruning.backends.pytorch.lowering.context import Lowering
from mopruning.ir.roles import roles_metadata, roles_of
from mopruning.ir.ties import ties_of


def untied(model: onnx_ir.Model) -> onnx_ir.Model:
    """Return the model with each tied weight under the name of the layer that reads it, so that layers find theirs.

    A layer is known by its node, which bears the path of its module. The content is shared; `tie` makes one parameter
    of it again.
    """
    ties = ties_of(model)
    if not ties:
        return model
    result = model.clone()  # shares the tensors
    graph, roles = result.graph, roles_of(model)
    for further, first in ties.items():
        path, owner = further.rpartition(".")[0], first.rpartition(".")[0]
        value = graph.initializers.get(first)
        readers = [use for use in value.uses() if _is_within(str(use.node.name), path)] if value and path else []
        if value is None or not readers:
            continue
        others = {use.node.op_type for use in value.uses() if use not in readers}
        suffixes = [name.removeprefix(owner) for name in graph.initializers if name.startswith(owner + ".")]
        whole = all(ties.get(path + suffix) == owner + suffix for suffix in suffixes)
        if whole and others.issuperset(use.node.op_type for use in readers):
            continue  # one module that is called twice: `tie` puts it at both paths
        own = onnx_ir.Value(name=further, shape=value.shape, type=value.type, const_value=value.const_value)
        graph.register_initializer(own)
        for use in readers:
            use.node.replace_input_with(use.idx, own)
        roles[further] = roles[first]
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[first]
    result.metadata_props.update(roles_metadata(result, roles))
    return result


def tie(low: Lowering, ties: Mapping[str, str]) -> None:
    """Make one parameter of all names of a weight in a lowered network, in place.

    A module that the network has at two paths is found again at both. Buffers are tied in no other way: PyTorch moves
    each to a device by itself.
    """
    _, left = join(low, ties)
    (output,) = low.graph.find_nodes(op="output")
    shared: set[str] = set()
    for further, first in left.items():
        path, owner = further.rpartition(".")[0], first.rpartition(".")[0]
        if path in shared:
            continue
        with low.graph.inserting_before(output):  # torch.fx keeps what its graph refers to
            if _is_whole(low, path, owner, left):
                shared.add(path)
                low.put(path, low.root.get_submodule(owner))
                low.graph.get_attr(path)
            elif isinstance(one := _find(low.root, first), nn.Parameter):
                low.put(further, one)
                low.graph.get_attr(further)


def join(low: Lowering, ties: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Make one parameter of those that layers of a lowered network hold under several names, in place.

    Returns:
        Name -> the first name that is held, of those that were joined; and of those that no layer holds.
    """
    groups: dict[str, list[str]] = {}
    for further, first in ties.items():
        groups.setdefault(first, [first]).append(further)
    joined, left = {}, {}
    for names in groups.values():
        held = [name for name in names if _find(low.root, name) is not None]
        one = _find(low.root, held[0]) if held else None
        for name in names:
            if held and name not in held:
                left[name] = held[0]
            elif isinstance(one, nn.Parameter) and name != held[0]:
                parent, _, last = name.rpartition(".")
                setattr(low.root.get_submodule(parent), last, one)
                joined[name] = held[0]
    return joined, left


def _is_within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


def _find(root: nn.Module, name: str) -> Tensor | None:
    """Return the parameter or buffer of this name."""
    path, _, last = name.rpartition(".")
    try:
        found = getattr(root.get_submodule(path), last, None)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _is_whole(low: Lowering, path: str, owner: str, ties: Mapping[str, str]) -> bool:
    """Whether all that a layer holds is tied to names under another path: it was one module at both."""
    if owner not in low.layers or not path:
        return False
    held = [name for name in low.root.get_submodule(owner).state_dict() if name != "num_batches_tracked"]
    return all(ties.get(f"{path}.{name}") == f"{owner}.{name}" for name in held)
