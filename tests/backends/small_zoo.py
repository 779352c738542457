"""The zoo at sizes that tests can afford."""

from __future__ import annotations

import os

import onnx_ir

from mopruning.ir import zoo

FAMILIES = (
    *("mnist_cnn", "lenet5", "resnet20_cifar", "wrn16_2_cifar", "vgg8_cifar", "mobilenet_v2_cifar"),
    *("shufflenet_v2_cifar", "resnet18", "vgg11", "vgg13_bn", "inception_v3"),
    *("squeezenet1_1", "mobilenet_v2", "shufflenet_v2", "resnet50_v1d_centernet"),
)
"""One network of every kind; the others are the same with more layers or channels."""

SIBLINGS = frozenset(
    {*(f"resnet{depth}_cifar" for depth in (18, 34, 50)), *(f"resnet{depth}x4_cifar" for depth in (8, 32))}
)
"""Networks so like others of the zoo that only long tests send them anywhere."""

NAMES = zoo.names() if os.environ.get("MOPRUNING_LONG_TESTS") == "1" else FAMILIES
"""Where every network would cost minutes; MOPRUNING_LONG_TESTS=1 takes them all."""

SIDE = 65  # odd: rounding of strides and padding shows
_SIDES = {"inception_v3": 107, "resnet50_v1d_centernet": 64}  # more than one pixel is left in the end, for BatchNorm
_VGG = 32


def small_side(name: str) -> int | None:
    """Return a side much smaller than ImageNet's, None for a network whose own images are small."""
    if zoo.NETWORKS[name].image[1] < 200:
        return None
    return _SIDES.get(name, _VGG if name.startswith("vgg") else SIDE)


def small_options(name: str) -> dict[str, int]:
    """Return what makes a network of ImageNet smaller than it is: 10 classes, dense layers of 512 features."""
    if small_side(name) is None:
        return {}
    return {"classes": 10, "hidden": 512} if name.startswith("vgg") else {"classes": 10}


def small(name: str) -> onnx_ir.Model:
    """Build a network of the zoo for small images, as wide as it is."""
    return zoo.build(name, image=small_side(name), classes=small_options(name).get("classes"))
