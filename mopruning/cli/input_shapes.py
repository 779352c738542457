"""`--input-shape`: sizes of a network's inputs, as text, and networks with the sizes that they leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mopruning.errors import MopruningError

if TYPE_CHECKING:
    import onnx_ir


class InputShapeError(MopruningError, ValueError):
    """Sizes of an input that cannot be."""


def parse(texts: Sequence[str], model: onnx_ir.Model) -> dict[str, tuple[int, ...]]:
    """Read the values of ``--input-shape``.

    Args:
        texts: Each "1,3,224,224", for a network of one input, or "NAME:1,3,224,224".
        model: The network.

    Returns:
        Shapes by name of input.

    Raises:
        InputShapeError: If a text is none of the two, or does not fit the input.
    """
    inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        if not colon and len(inputs) != 1:
            raise InputShapeError(f"--input-shape {text}: the network has the inputs {', '.join(inputs)}; name one")
        name = name if colon else next(iter(inputs))
        if name not in inputs:
            raise InputShapeError(f"--input-shape {text}: no input is called {name!r}; there are {', '.join(inputs)}")
        shapes[name] = _sizes(text, sizes)
        declared = inputs[name].shape
        fits = declared is None or (
            len(declared) == len(shapes[name])
            and all(not isinstance(old, int) or old == new for old, new in zip(declared, shapes[name], strict=True))
        )
        if not fits:
            shown = ",".join(str(size) for size in declared or ())
            raise InputShapeError(f"--input-shape {text}: the network takes {name} as {shown}")
    return shapes


def as_option(reason: str) -> str:
    """Name the option where a reason names the arguments of a function."""
    from mopruning.ir.passes.cost import SIZES

    return reason.replace(SIZES, "--input-shape")


def _sizes(text: str, sizes: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(size) for size in sizes.replace("x", ",").split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise InputShapeError(f"--input-shape {text}: expected whole numbers of 1 or more, such as 1,3,224,224")
    return numbers


def with_sizes(model: onnx_ir.Model, shapes: Mapping[str, Sequence[int]]) -> onnx_ir.Model:
    """Return the network with the open axes of its inputs fixed, all but an open first one: the batch stays open."""
    if not shapes:
        return model
    import onnx_ir

    from mopruning.ir.passes import infer_shapes

    result = model.clone()
    for value in result.graph.inputs:
        name = str(value.name)
        if name in shapes:
            sizes: list[int | onnx_ir.SymbolicDim] = list(shapes[name])
            if value.shape is not None and len(sizes) and not isinstance(value.shape[0], int):
                sizes[0] = value.shape[0]
            value.shape = onnx_ir.Shape(sizes)
    for node in result.graph:  # what was declared may be more open than it is now
        for output in node.outputs:
            output.shape = None
    return infer_shapes(result)


def sample_shapes(model: onnx_ir.Model, shapes: Mapping[str, Sequence[int]], batch: int = 2) -> list[tuple[int, ...]]:
    """Return the shape of each input for a run.

    Args:
        model: The network.
        shapes: Those that were asked for, by name.
        batch: First axis where it is open; more than 1, so that a batch that was fixed by mistake is noticed.

    Raises:
        InputShapeError: If an axis but the first is open.
    """
    found = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        name = str(value.name)
        if name in shapes:
            found.append(tuple(shapes[name]))
            continue
        declared = list(value.shape) if value.shape is not None else None
        if declared and not isinstance(declared[0], int):
            declared[0] = batch
        if declared is None or not all(isinstance(size, int) for size in declared):
            shown = "unknown" if declared is None else ",".join(map(str, value.shape or ()))
            raise InputShapeError(
                f"the sizes of input {name!r} are open ({shown}): give them with --input-shape, or skip the check "
                "with --no-check"
            )
        found.append(tuple(int(size) for size in declared if isinstance(size, int)))
    return found
