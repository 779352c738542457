"""What the scripts here share: their options, the sparse network that arrives as a file, and how it leaves.

Importing this makes those of `examples/mnist` importable: the images, the progress and what belongs to a framework.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir

sys.path.append(str(Path(__file__).parents[1] / "mnist"))

from data import Data, parts
from head import with_new_head
from options import common

from mopruning.datasets.batches import Augmentation
from mopruning.errors import FormatError
from mopruning.ir.passes import sparsity
from mopruning.model_files import graph_format_of, read_model, write_model


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """Build the parser; epochs, batches and rate are the published ones of a sparse network on CIFAR-10."""
    result = common(description, epochs=200, batch_size=128, out=out)
    result.add_argument("--model", required=True, help="the sparse network: .mopir, .onnx or a framework's own file")
    result.add_argument("--lr", type=float, default=0.1, help="learning rate at the start; it falls as a cosine")
    result.add_argument("--mean", type=float, nargs="+", default=[0.0], help="of the channels of images in 0 to 1")
    result.add_argument("--std", type=float, nargs="+", default=[1.0], help="by which they are then divided")
    result.add_argument("--images", type=int, help="train with the first so many alone")
    result.add_argument("--augment", action="store_true", help="crop and mirror images at random")
    result.add_argument("--new-head", action="store_true", help="begin with a new last layer, for the data's classes")
    return result


@dataclass(frozen=True)
class Task:
    """A sparse network and the images to fine-tune it on.

    Args:
        model: The network.
        data: The images, of the size that it takes.
    """

    model: onnx_ir.Model
    data: Data

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an input with one image."""
        return (1, self.data.train.images.shape[-1], *self.data.size)

    def finish(self, trained: onnx_ir.Model, out: str, folder: str = "pytorch") -> None:
        """Write the network, also as .mopir, and say what became of the zeros.

        Args:
            trained: The network after fine-tuning.
            out: Where to; the ending says the format.
            folder: The format of a folder.
        """
        before, after = zeros(self.model), zeros(trained)
        ending = graph_format_of(out).ending
        write_model(trained, out, folder if ending == "/" else None)
        compact = out.removesuffix("/").removesuffix(ending) + ".mopir"
        write_model(trained, compact)
        kept = sum(int((array & after[name]).sum()) for name, array in before.items())
        print(sparsity(trained))
        print(f"zeros: {sum(int(array.sum()) for array in before.values()):,} arrived, {kept:,} of them left")
        print(f"network: {out}, {compact}")


def load(options: argparse.Namespace) -> Task:
    """Read the network and load the images.

    Raises:
        FormatError: If the network does not take these images, or tells fewer classes apart than they have.
    """
    model = read_model(options.model)
    train, test = parts(options.data)
    train = train[: options.images]
    channels, *size = image_of(model, options.model)
    if channels != train.images.shape[-1]:
        raise FormatError(f"{options.model}: takes {channels} channels, the images have {train.images.shape[-1]}")
    own = train.images.shape[1:3]
    sides = tuple(side if isinstance(side, int) else given for side, given in zip(size, own, strict=True))
    augmentation = Augmentation() if options.augment else None
    data = Data(train, test, sides, options.mean, options.std, augmentation)

    classes = len(train.classes) or int(max(train.labels.max(), test.labels.max())) + 1
    told = model.graph.outputs[0].shape[-1]
    if options.new_head:
        model = with_new_head(model, classes, options.seed)
    elif isinstance(told, int) and told < classes:
        raise FormatError(f"{options.model}: tells {told} classes apart, the images have {classes}: use --new-head")
    print(f"{options.model}: sparsity {sparsity(model).total.sparsity:.4f}")
    return Task(model, data)


def image_of(model: onnx_ir.Model, path: str) -> list[int | str | None]:
    """Return channels, height and width of the image that a network takes; what is open is no number."""
    ends = [[value for value in model.graph.inputs if not value.is_initializer()], model.graph.outputs]
    inputs, outputs = ([[getattr(side, "value", side) for side in value.shape] for value in end] for end in ends)
    if [*map(len, inputs)] != [4] or [*map(len, outputs)] != [2]:
        raise FormatError(f"{path}: expected [N, channels, height, width] -> [N, classes], got {inputs} -> {outputs}")
    return inputs[0][1:]


def zeros(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    """Return where the weights of a network are zero, by name."""
    rows = sparsity(model).rows
    initializers = model.graph.initializers
    return {row.counted.name: initializers[row.counted.name].const_value.numpy() == 0 for row in rows}
