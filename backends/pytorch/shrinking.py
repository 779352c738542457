"""Shrinking of modules: channels of zeros are taken out for good; and which filters can only go together."""

from __future__ import annotations

import itertools

from torch import fx, nn

from mopruning.backends.pytorch.exporting.tracing import Example
from mopruning.backends.pytorch.reader import to_ir
from mopruning.backends.pytorch.writer import from_ir
from mopruning.coupling import FilterGroup
from mopruning.ir import coupling
from mopruning.ir.passes import shrink as shrink_ir


def shrink(module: nn.Module, example: Example) -> fx.GraphModule:
    """Build the network of a module without the filters and channels that are zero or that nothing reads.

    It computes what the module does in inference, up to rounding, and can be trained on; an optimizer has to be made
    anew for its parameters. `mopruning.ir.passes.shrink_report` says what stays, and why, of the model that `to_ir`
    gives.

    Args:
        module: The pruned module; it is not changed.
        example: What it is called with: a tensor, a sequence of positional arguments, or a mapping of keyword
            arguments. Shapes and types matter, values do not.

    Returns:
        A new network with the same names of parameters, on the device and in the mode of the module.

    Raises:
        FormatError: If the module cannot be traced with the example.
        UnsupportedOperators: If it computes with operators outside the profile; all of them are listed.

    >>> import torch
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> with torch.no_grad():
    ...     _ = module[0].weight[:6].zero_()
    >>> small = shrink(module, torch.zeros(1, 3, 8, 8))
    >>> {name: tuple(parameter.shape) for name, parameter in small.named_parameters()}
    {'0.weight': (2, 3, 3, 3), '0.bias': (2,), '2.weight': (4, 2, 3, 3), '2.bias': (4,)}
    """
    result = from_ir(shrink_ir(to_ir(module, example)))
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    result = result if tensor is None else result.to(tensor.device)
    return result.train(module.training)


def filter_groups(module: nn.Module, example: Example) -> tuple[FilterGroup, ...]:
    """Return the filters of a module that can only be removed together, for pruning with `Filter(group=True)`.

    Args:
        module: The module; it is not changed.
        example: What it is called with, as for `shrink`.

    Returns:
        Groups of filters by the names of the parameters, for the `groups` argument of `Prune` and of the sparse
        optimizers.

    >>> import torch
    >>> module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    >>> [group.names for group in filter_groups(module, torch.zeros(1, 3, 8, 8))]
    [('0.weight', '1.weight'), ('2.weight',)]
    """
    return coupling.filter_groups(to_ir(module, example))
