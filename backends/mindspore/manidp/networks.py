"""Networks: residual networks with a gate behind each convolution of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mopruning.backends.mindspore.manidp.gates import Gate, pool
from mopruning.backends.mindspore.weights import write
from mopruning.errors import RecipeError
from mopruning.manidp import NOTHING_PRUNED, Structure, states
from mopruning.manidp.structure import Block, Family

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

AMP_LEVELS = ("O0", "O1", "O2", "O3")
"""What is computed in float16: nothing; convolutions and classifier; what lies between them as well; scales and shifts
of normalisations, too. Gates and losses are float32 at every level, and so are all parameters."""


@dataclass
class Details:
    """What a pass through a network shows of its gates, in the order of `Structure.gates`.

    Args:
        logits: [images, classes]
        saliencies: Of each gate, float32 [images, channels].
        factors: What each gate scales channels by, float32 [images, channels]; 0 where an image does without one.
        features: Global averages of what each gate scales, before it does, float32 [images, channels].
    """

    logits: Tensor
    saliencies: Sequence[Tensor]
    factors: Sequence[Tensor]
    features: Sequence[Tensor]

    def kept(self) -> NumPyArray:
        """Return how many channels each image keeps at each gate, int64 [images, gates]."""
        return np.stack([np.count_nonzero(factor.asnumpy(), 1) for factor in self.factors], 1)


class DynamicBlock(nn.Cell):  # type: ignore[misc]
    """A basic block with two gates; its shortcut carries every channel.

    Args:
        block: What it is like.
        family: Names of its layers.
        shortcut: One of `structure.SHORTCUTS`.
        clamp_max: Largest saliency.
        between: dtype of what goes from layer to layer.
    """

    def __init__(
        self,
        block: Block,
        family: Family,
        shortcut: str = "conv",
        clamp_max: float = 1000.0,
        between: ms.Type = ms.float32,
    ) -> None:
        super().__init__()
        self.between = between
        self.layers = (family.conv_a, family.norm_a, family.conv_b, family.norm_b)
        inputs, outputs = block.inputs, block.outputs
        setattr(self, family.conv_a, _convolution(inputs, outputs, 3, block.stride))
        setattr(self, family.norm_a, nn.BatchNorm2d(outputs))
        setattr(self, family.conv_b, _convolution(outputs, outputs, 3, 1))
        setattr(self, family.norm_b, nn.BatchNorm2d(outputs))
        self.downsample = _shortcut(block, family, shortcut)
        self.mb1 = Gate(inputs, outputs, block.hidden, clamp_max)
        self.mb2 = Gate(outputs, outputs, block.hidden, clamp_max)

    def construct(self, x: Any, gates: bool = True) -> tuple[Any, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Return the output, and of both gates saliencies, factors and features."""
        conv_a, norm_a, conv_b, norm_b = self.layers
        first = ops.relu(getattr(self, norm_a)(getattr(self, conv_a)(x).astype(self.between)))
        beside = self.downsample(x).astype(self.between)
        if not gates:
            return (
                ops.relu(getattr(self, norm_b)(getattr(self, conv_b)(first).astype(self.between)) + beside),
                (),
                (),
                (),
            )
        average = pool(first)
        saliency_1, factor_1 = self.mb1(pool(x))
        second = getattr(self, norm_b)(getattr(self, conv_b)(_scaled(first, factor_1)).astype(self.between))
        # the average of what is scaled, without a pass over its pixels
        saliency_2, factor_2 = self.mb2(average * factor_1)
        out = ops.relu(_scaled(second, factor_2) + beside)
        return out, (saliency_1, saliency_2), (factor_1, factor_2), (average, pool(second))


def _scaled(x: Any, factor: Any) -> Any:
    return x * factor.astype(x.dtype).expand_dims(-1).expand_dims(-1)


class Subsample(nn.Cell):  # type: ignore[misc]
    """Takes every second pixel and adds channels of zeros, half before and half behind (option A).

    Source: He et al., "Deep residual learning for image recognition", 2015, section 3.3.
    """

    def __init__(self, stride: int, before: int, behind: int) -> None:
        super().__init__()
        self.stride, self.before, self.behind = stride, before, behind

    def construct(self, x: Any) -> Any:
        """Return [images, before + channels + behind, h / stride, w / stride]."""
        x = x[:, :, :: self.stride, :: self.stride]
        images, _, height, width = x.shape
        before = ops.zeros((images, self.before, height, width), x.dtype)
        return ops.cat((before, x, ops.zeros((images, self.behind, height, width), x.dtype)), 1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Cell:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, pad_mode="pad", padding=kernel // 2, has_bias=False, weight_init="zeros"
    )


def _shortcut(block: Block, family: Family, kind: str) -> nn.Cell:
    if not block.changes:
        return nn.Identity()
    if kind == "A":
        before = (block.outputs - block.inputs) // 2
        return Subsample(block.stride, before, block.outputs - block.inputs - before)
    convolution = _convolution(block.inputs, block.outputs, 1, block.stride)
    return nn.SequentialCell(convolution, nn.BatchNorm2d(block.outputs)) if family.shortcut_norm else convolution


class DynamicResNet(nn.Cell):  # type: ignore[misc]
    """A residual network in which each image keeps channels of its own.

    Args:
        structure: Its layers; parameters bear the names that this gives them, normalisations MindSpore's own
            (gamma, beta, moving_mean, moving_variance). Weights are zeros: `network` draws them.
        clamp_max: Largest saliency.
        amp_level: One of `AMP_LEVELS`.

    Raises:
        RecipeError: If there is no such level.
    """

    def __init__(self, structure: Structure, *, clamp_max: float = 1000.0, amp_level: str = "O0") -> None:
        super().__init__()
        if amp_level not in AMP_LEVELS:
            raise RecipeError(f"amp_level must be one of {', '.join(AMP_LEVELS)}, got {amp_level!r}")
        family = structure.family
        self.structure, self.amp_level = structure, amp_level
        self.layers = (family.stem, family.stem_norm, family.classifier)
        self.stages = tuple(family.stage.format(number + 1) for number in range(len(structure.blocks)))
        width = structure.channels[0]
        setattr(self, family.stem, _convolution(3, width, family.stem_kernel, family.stem_stride))
        setattr(self, family.stem_norm, nn.BatchNorm2d(width))
        self.pool = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1) if family.stem_pool else nn.Identity()
        self.between = ms.float16 if amp_level in ("O2", "O3") else ms.float32
        blocks = [
            DynamicBlock(block, family, structure.shortcut, clamp_max, self.between) for block in structure.layers
        ]
        for stage, count in zip(self.stages, structure.blocks, strict=True):
            setattr(self, stage, nn.SequentialCell(*(blocks.pop(0) for _ in range(count))))
        setattr(self, family.classifier, nn.Dense(structure.channels[-1], structure.classes, weight_init="zeros"))
        self._lower(amp_level)

    def _lower(self, amp_level: str) -> None:
        """Have layers compute in float16 in place."""
        if amp_level == "O0":
            return
        halves = (nn.Conv2d, nn.BatchNorm2d) if amp_level == "O3" else (nn.Conv2d,)
        for _, cell in self.cells_and_names():
            if isinstance(cell, halves) or cell is getattr(self, self.layers[2]):
                cell.to_float(ms.float16)

    @property
    def gates(self) -> list[Gate]:
        """Every gate, in the order of `Structure.gates`."""
        return [cell for _, cell in self.cells_and_names() if isinstance(cell, Gate)]

    def construct(self, x: Any, details: bool = False, gates: bool = True) -> Any:
        """Return logits [images, classes], or with `details` what `Details` holds, as a tuple.

        Args:
            x: Images [images, 3, height, width].
            details: Whether to return what the gates decided as well.
            gates: Without, every channel of every layer is kept as it is: the plain dense network.
        """
        stem, norm, classifier = self.layers
        x = self.pool(ops.relu(getattr(self, norm)(getattr(self, stem)(x).astype(self.between))))
        saliencies: tuple[Any, ...] = ()
        factors: tuple[Any, ...] = ()
        features: tuple[Any, ...] = ()
        for stage in self.stages:
            for block in getattr(self, stage):
                x, saliency, factor, feature = block(x, gates)
                saliencies, factors, features = saliencies + saliency, factors + factor, features + feature
        logits = getattr(self, classifier)(pool(x)).astype(ms.float32)
        return (logits, saliencies, factors, features) if details else logits

    def details(self, x: Tensor) -> Details:
        """Return logits and what the gates decided."""
        return Details(*self(x, True))

    def set_thresholds(self, values: Sequence[float]) -> None:
        """Set the threshold of each gate in place."""
        for gate, value in zip(self.gates, values, strict=True):
            write(gate.thre, np.full(1, value, np.float32))

    def reset_sums(self) -> None:
        """Set the sums of saliencies to 0 in place."""
        for gate in self.gates:
            write(gate.mask_sum, np.zeros(gate.mask_sum.shape, np.float32))


def network(
    structure: Structure,
    *,
    clamp_max: float = 1000.0,
    seed: int = 0,
    thre_init: float = NOTHING_PRUNED,
    gate_scale: float = 1.0,
    amp_level: str = "O0",
) -> DynamicResNet:
    """Build a network with the weights that a training starts from; see `states.initial`.

    >>> from mopruning.manidp import structure
    >>> net = network(structure("dyresnet20"))
    >>> len(net.gates), net.gates[0].fc2.bias.name
    (18, 'stage_1.0.mb1.fc2.bias')
    """
    net = DynamicResNet(structure, clamp_max=clamp_max, amp_level=amp_level)
    load_state(net, states.initial(structure, seed=seed, thre_init=thre_init, gate_scale=gate_scale))
    return net


def load_state(
    net: DynamicResNet, state: Mapping[str, NumPyArray], where: str = "state", *, gates: bool = True
) -> None:
    """Load weights in place, whoever named them.

    Args:
        net: The network.
        state: Arrays by name; see `states.named`.
        where: What errors call it.
        gates: Whether weights and thresholds of gates are in it; without, those in it are dropped, and the network's
            own stay.

    Raises:
        StateError: If entries are missing, unexpected or of another shape.
    """
    found = states.accepted(net.structure, state, where, gates=gates)
    parameters = _by_name(net)
    for name, value in found.items():
        write(parameters[name], np.asarray(value, np.float32))


def state_of(net: DynamicResNet) -> dict[str, NumPyArray]:
    """Return a network's weights, thresholds and sums by name, in the order of `states.shapes`."""
    parameters = _by_name(net)
    return {name: parameters[name].asnumpy().copy() for name in states.shapes(net.structure)}


def _by_name(net: DynamicResNet) -> dict[str, Any]:
    return states.named(net.structure, {parameter.name: parameter for parameter in net.get_parameters()})
