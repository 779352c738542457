"""Structures: the residual networks that ManiDP prunes, layer by layer, with the names of their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mopruning.errors import RecipeError

SHORTCUTS = ("conv", "A")
"""What carries a block's input past it where the shape changes: a convolution, or every second pixel and new channels
of zeros (option A)."""

_NARROW = 80  # gates of fewer channels have twice the hidden features


@dataclass(frozen=True)
class Family:
    """What the networks of one data set have in common: their first layers, and what the layers are called.

    Args:
        stem: Name of the first convolution.
        stem_norm: Name of its batch normalisation.
        stem_kernel: Side of its kernel; padding keeps the size.
        stem_stride: Its stride.
        stem_pool: Whether a 3x3 max pool of stride 2 follows.
        stage: Name of a stage, with its number from 1.
        conv_a: Name of a block's first convolution; its batch normalisation, the second convolution and its batch
            normalisation follow.
        norm_a: See `conv_a`.
        conv_b: See `conv_a`.
        norm_b: See `conv_a`.
        shortcut_norm: Whether the convolution of a shortcut has a batch normalisation of its own.
        classifier: Name of the dense layer.
    """

    stem: str
    stem_norm: str
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    stage: str
    conv_a: str
    norm_a: str
    conv_b: str
    norm_b: str
    shortcut_norm: bool
    classifier: str


CIFAR = Family(
    *("conv_1_3x3", "bn_1", 3, 1, False, "stage_{}", "conv_a", "bn_a", "conv_b", "bn_b"),
    shortcut_norm=False,
    classifier="classifier",
)
IMAGENET = Family(
    *("conv1_7x7", "bn1", 7, 2, True, "layer{}", "conv1", "bn1", "conv2", "bn2"), shortcut_norm=True, classifier="fc"
)


@dataclass(frozen=True)
class Block:
    """One basic block: two 3x3 convolutions, a gate for the output channels of each, a shortcut.

    Args:
        name: What stands before the names of its layers, such as "stage_1.0".
        inputs: Input channels.
        outputs: Output channels of both convolutions.
        stride: Of the first convolution, and of the shortcut.
        side: Side of its output, pixels.
        hidden: Hidden features of both gates.
    """

    name: str
    inputs: int
    outputs: int
    stride: int
    side: int
    hidden: int

    @property
    def gates(self) -> tuple[str, str]:
        """Names of its gates, in the order in which they are computed."""
        return f"{self.name}.mb1", f"{self.name}.mb2"

    @property
    def gate_macs(self) -> int:
        """Multiply-accumulates of both gates for one image."""
        return self.hidden * (self.inputs + self.outputs) + self.hidden * 2 * self.outputs

    @property
    def changes(self) -> bool:
        """Whether its output has another shape than its input, so that the shortcut has work to do."""
        return self.stride != 1 or self.inputs != self.outputs


@dataclass(frozen=True)
class Structure:
    """A residual network with gates.

    Args:
        family: First layers and names.
        blocks: Number of blocks of each stage.
        channels: Channels of each stage.
        classes: Number of classes.
        image: Side of the images, pixels.
        shortcut: One of `SHORTCUTS`.
        squeeze_rate: Features of a gate's hidden layer are its channels divided by this; by half of it where there are
            fewer than 80.

    Raises:
        RecipeError: If a number is below 1, blocks and channels are of other stages, or there is no such shortcut.

    >>> cifar = structure("dyresnet20")
    >>> len(cifar.gates), cifar.gates[:2], cifar.gate_channels[-1]
    (18, ('stage_1.0.mb1', 'stage_1.0.mb2'), 64)
    """

    family: Family
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    classes: int
    image: int
    shortcut: str = "conv"
    squeeze_rate: int = 2

    def __post_init__(self) -> None:
        if self.shortcut not in SHORTCUTS:
            raise RecipeError(f"shortcut must be {' or '.join(SHORTCUTS)}, got {self.shortcut!r}")
        if len(self.blocks) != len(self.channels) or not self.blocks:
            raise RecipeError(f"blocks and channels must say of the same stages, got {self.blocks} and {self.channels}")
        numbers = {"classes": self.classes, "image": self.image, "squeeze_rate": self.squeeze_rate}
        numbers |= {f"blocks[{stage}]": number for stage, number in enumerate(self.blocks)}
        numbers |= {f"channels[{stage}]": number for stage, number in enumerate(self.channels)}
        for name, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise RecipeError(f"{name} must be a whole number from 1, got {number!r}")

    @property
    def stem_side(self) -> int:
        """Side of what the first block gets, pixels."""
        side = -(-self.image // self.family.stem_stride)
        return -(-side // 2) if self.family.stem_pool else side

    @property
    def layers(self) -> tuple[Block, ...]:
        """Every block, in the order in which they are computed."""
        found, inputs, side = [], self.channels[0], self.stem_side
        for stage, (count, outputs) in enumerate(zip(self.blocks, self.channels, strict=True)):
            for number in range(count):
                stride = 2 if stage and not number else 1
                side = -(-side // stride)
                name = f"{self.family.stage.format(stage + 1)}.{number}"
                found.append(Block(name, inputs, outputs, stride, side, self._hidden(outputs)))
                inputs = outputs
        return tuple(found)

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of all gates, in the order in which they are computed."""
        return tuple(gate for block in self.layers for gate in block.gates)

    @property
    def gate_channels(self) -> tuple[int, ...]:
        """Channels of all gates."""
        return tuple(block.outputs for block in self.layers for _ in block.gates)

    def _hidden(self, channels: int) -> int:
        rate = max(1, self.squeeze_rate // 2) if channels < _NARROW else self.squeeze_rate
        return max(1, channels // rate)


def _cifar(count: int) -> Structure:
    return Structure(CIFAR, (count,) * 3, (16, 32, 64), classes=10, image=32)


def _imagenet(*blocks: int) -> Structure:
    return Structure(IMAGENET, blocks, (64, 128, 256, 512), classes=1000, image=224)


STRUCTURES: Mapping[str, Structure] = {
    **{f"dyresnet{6 * count + 2}": _cifar(count) for count in (3, 5, 7, 9)},
    **dict.fromkeys(("dyresnet18", "resnet18"), _imagenet(2, 2, 2, 2)),
    **dict.fromkeys(("dyresnet34", "resnet34"), _imagenet(3, 4, 6, 3)),
}
"""Architecture -> structure; those of ImageNet also under the names that the published program has for them."""


def structure(
    arch: str,
    *,
    classes: int | None = None,
    shortcut: str = "conv",
    squeeze_rate: int = 2,
    width: int = 1,
    image: int | None = None,
) -> Structure:
    """Return the structure of an architecture.

    Args:
        arch: A key of `STRUCTURES`.
        classes: Number of classes, as usual by default.
        shortcut: One of `SHORTCUTS`.
        squeeze_rate: See `Structure`.
        width: All channels times this.
        image: Side of the images, as usual by default.

    Raises:
        RecipeError: If there is no such architecture, or a number is below 1.
    """
    if arch not in STRUCTURES:
        raise RecipeError(f"arch must be one of {', '.join(STRUCTURES)}, got {arch!r}")
    if not isinstance(width, int) or width < 1:
        raise RecipeError(f"width must be a whole number from 1, got {width!r}")
    usual = STRUCTURES[arch]
    return replace(
        usual,
        classes=usual.classes if classes is None else classes,
        image=usual.image if image is None else image,
        channels=tuple(width * number for number in usual.channels),
        shortcut=shortcut,
        squeeze_rate=squeeze_rate,
    )
