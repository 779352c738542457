"""Networks: the names of the published data-parallel program, and what the model zoo calls the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from mopruning.names import Names, check_choice, stripped

T = TypeVar("T")

SMALL: Mapping[str, str] = {
    **{f"wrn{depth}_{width}": f"wrn{depth}_{width}_cifar" for depth in (16, 40) for width in (1, 2)},
    **{f"resnet{depth}": f"resnet{depth}_cifar" for depth in (8, 18, 20, 32, 34, 44, 50, 56, 110)},
    **{f"resnet{depth}x4": f"resnet{depth}x4_cifar" for depth in (8, 32)},
    **{f"vgg{depth}": f"vgg{depth}_cifar" for depth in (8, 11, 13, 16)},
    "shufflenetv2": "shufflenet_v2_cifar",
    "mobilenetv2": "mobilenet_v2_cifar",
}
"""Published name -> name in the zoo, of networks for images of 32 x 32."""

IMAGENET: Mapping[str, str] = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101)},
    **{f"vgg{depth}{norm}": f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    "inceptionv3": "inception_v3",
    "squeezenet1_0": "squeezenet1_0",
    "squeezenet1_1": "squeezenet1_1",
    "mobilenetv2": "mobilenet_v2",
    "shufflenetv2": "shufflenet_v2",
}
"""The same, of networks for ImageNet."""

LINEAR_HEADS: Mapping[str, frozenset[str]] = {f"resnet{depth}": frozenset({"fc"}) for depth in (18, 34, 50, 101)}
"""Published name of a network -> its last layer here, where the published program calls it `last_linear`."""

TWO_SHORTCUTS = tuple(f"resnet{depth}" for depth in (8, 20, 32, 44, 56, 110))
"""Published names of the networks whose shortcuts may be convolutions or paddings."""

_HEADS = ("fc", "linear", "classifier", "last_linear")


def zoo_name(model: str, dataset: str) -> str:
    """Return what the zoo calls a published network.

    Raises:
        RecipeError: If there is none of that name for the data set; the message offers the nearest.

    >>> zoo_name("wrn40_2", "cifar10"), zoo_name("inceptionv3", "imagenet")
    ('wrn40_2_cifar', 'inception_v3')
    """
    known = IMAGENET if dataset == "imagenet" else SMALL
    return known[check_choice(model, known, f"--model for {dataset}:")]


def own_names(mapping: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """Return a mapping of parameter names as the network has them, where its last layer has another name.

    The published program calls the last layer of ImageNet's ResNets `last_linear`, here it is `fc` as in torchvision;
    those of CIFAR's are `fc` there and `linear` here. Other names are left as they are, right or wrong.

    >>> own_names({"module.last_linear.weight": 0.2, "conv1.weight": 0.3}, ["conv1.weight", "fc.weight"])
    {'fc.weight': 0.2, 'conv1.weight': 0.3}
    """
    known = Names(names)

    def own(key: Any) -> Any:
        if not isinstance(key, str) or known.find(key)[0]:
            return key
        head, _, rest = stripped(key).partition(".")
        others = [f"{other}.{rest}" for other in _HEADS if head in _HEADS and known.find(f"{other}.{rest}")[0]]
        return others[0] if len(others) == 1 else key

    return {own(key): value for key, value in mapping.items()}
