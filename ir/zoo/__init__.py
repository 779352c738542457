"""The model zoo: each network defined once, as an IR graph that any framework's writer turns into a native one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import GraphError
from mopruning.ir.zoo.centernet import centernet
from mopruning.ir.zoo.inception import inception_v3
from mopruning.ir.zoo.mobilenet import mobilenet_v2, mobilenet_v2_cifar
from mopruning.ir.zoo.resnet import resnet
from mopruning.ir.zoo.resnet_cifar import resnet_cifar
from mopruning.ir.zoo.shufflenet import shufflenet_v2, shufflenet_v2_cifar
from mopruning.ir.zoo.small import lenet5, mnist_cnn
from mopruning.ir.zoo.squeezenet import squeezenet
from mopruning.ir.zoo.vgg import vgg, vgg_cifar
from mopruning.ir.zoo.wide_resnet import wide_resnet


@dataclass(frozen=True)
class Network:
    """How one network of the zoo is built.

    Args:
        define: Adds its layers to a `Builder` and returns the output, or all outputs by name.
        image: Channels, height and width of its input, unless asked otherwise.
        classes: Number of outputs, unless asked otherwise.
        arguments: What sets it apart within its family.
        choices: Options that `build` accepts, with their values; the first is the default.
    """

    define: Callable[..., onnx_ir.Value | Mapping[str, onnx_ir.Value]]
    image: tuple[int, int, int]
    classes: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_CIFAR = ((3, 32, 32), 10)
_IMAGENET = ((3, 224, 224), 1000)

NETWORKS: Mapping[str, Network] = {
    "mnist_cnn": Network(mnist_cnn, (1, 28, 28), 10),
    "lenet5": Network(lenet5, (1, 28, 28), 10, choices={"variant": ("lecun", "wide")}),
    **{
        f"resnet{depth}_cifar": Network(resnet_cifar, *_CIFAR, {"depth": depth}, {"shortcut": ("conv", "A")})
        for depth in (8, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4_cifar": Network(
            resnet_cifar, *_CIFAR, {"depth": depth, "stem": 32, "width": 64}, {"shortcut": ("conv",)}
        )
        for depth in (8, 32)
    },
    **{f"resnet{depth}_cifar": Network(resnet, *_CIFAR, {"depth": depth, "small": True}) for depth in (18, 34, 50)},
    **{
        f"wrn{depth}_{width}_cifar": Network(wide_resnet, *_CIFAR, {"depth": depth, "width": width})
        for depth in (16, 40)
        for width in (1, 2)
    },
    **{f"vgg{depth}_cifar": Network(vgg_cifar, *_CIFAR, {"depth": depth}) for depth in (8, 11, 13, 16)},
    "mobilenet_v2_cifar": Network(mobilenet_v2_cifar, *_CIFAR, choices={"width": (0.5, 1.0)}),
    "shufflenet_v2_cifar": Network(shufflenet_v2_cifar, *_CIFAR),
    **{f"resnet{depth}": Network(resnet, *_IMAGENET, {"depth": depth}) for depth in (18, 34, 50, 101)},
    "resnet50_v1d": Network(resnet, *_IMAGENET, {"depth": 50, "deep": True}),
    **{
        f"vgg{depth}{suffix}": Network(
            vgg, *_IMAGENET, {"depth": depth, "batch_norm": bool(suffix)}, {"hidden": (4096, 512)}
        )
        for depth in (11, 13, 16, 19)
        for suffix in ("", "_bn")
    },
    "inception_v3": Network(inception_v3, (3, 299, 299), 1000),
    **{f"squeezenet{version}": Network(squeezenet, *_IMAGENET, {"version": version}) for version in ("1_0", "1_1")},
    "mobilenet_v2": Network(mobilenet_v2, *_IMAGENET),
    "shufflenet_v2": Network(shufflenet_v2, *_IMAGENET),
    "resnet50_v1d_centernet": Network(centernet, (3, 512, 512), 80, {"depth": 50}),
}
"""Every network by name."""


def names() -> tuple[str, ...]:
    """Return the names of all networks.

    >>> names()[:4]
    ('mnist_cnn', 'lenet5', 'resnet8_cifar', 'resnet20_cifar')
    """
    return tuple(NETWORKS)


def build(
    name: str, seed: int = 0, classes: int | None = None, image: int | tuple[int, int] | None = None, **options: Any
) -> onnx_ir.Model:
    """Build a network with initial weights.

    Args:
        name: One of `names()`.
        seed: Whole number of 0 or more that selects the initial weights; see `mopruning.ir.initial`.
        classes: Number of outputs; that of its data set unless given.
        image: Height and width of its input, or one number for both; that of its data set unless given.
        options: Choices that a network offers: ``shortcut="conv"`` or ``"A"`` for the ResNets of CIFAR,
            ``width=0.5`` or ``1.0`` for `mobilenet_v2_cifar`, ``variant="lecun"`` or ``"wide"`` for `lenet5`,
            ``hidden=4096`` or, for few classes, ``512`` for the VGGs of ImageNet.

    Returns:
        A model with the input "input" [N, channels, height, width] and the output "output" [N, classes] before any
        softmax (detection: "heatmap", "wh", "reg"). Parameters have the names that PyTorch's checkpoints give them:
        torchvision's for ImageNet, else as the function in `mopruning.ir.zoo` that defines the network says. Weights
        are drawn when first used.

    Raises:
        GraphError: If there is no such network or option, or it cannot take such images.

    >>> model = build("resnet20_cifar", classes=100, shortcut="A")
    >>> model.graph.initializers["linear.weight"].shape
    Shape([100, 64])
    """
    network = NETWORKS.get(name)
    if network is None:
        near = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(NETWORKS)}"
        raise GraphError(f"the zoo has no network {name!r}; {hint}")
    chosen = {option: values[0] for option, values in network.choices.items()}
    for option, value in options.items():
        known = network.choices.get(option)
        if known is None or value not in known:
            offered = [f"{own}={' or '.join(map(repr, values))}" for own, values in network.choices.items()]
            raise GraphError(f"{name}: got {option}={value!r}; it takes {', '.join(offered) or 'no options'}")
        chosen[option] = value
    channels, *size = network.image
    if image is not None:
        size = [image, image] if isinstance(image, int) else list(image)
    count = network.classes if classes is None else classes
    for what, number in (("classes", count), ("height", size[0]), ("width", size[-1])):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise GraphError(f"{name}: {what} must be a whole number of 1 or more, got {number!r}")
    net = Builder(name, seed)
    outputs = network.define(net, net.input("input", (channels, *size)), count, **network.arguments, **chosen)
    model = net.model({"output": outputs} if isinstance(outputs, onnx_ir.Value) else outputs)
    model.metadata_props["mopruning.source"] = "zoo"
    return model
