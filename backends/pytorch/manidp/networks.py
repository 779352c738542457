"""Networks: residual networks with a gate behind each convolution of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mopruning.backends.pytorch.manidp.gates import Gate, pool
from mopruning.manidp import Structure, states
from mopruning.manidp.gates import NOTHING_PRUNED
from mopruning.manidp.structure import Block, Family


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
    saliencies: list[Tensor] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    def kept(self) -> Tensor:
        """Return how many channels each image keeps at each gate, int64 [images, gates]."""
        return torch.stack([factor.ne(0).sum(1) for factor in self.factors], 1)


class DynamicBlock(nn.Module):
    """A basic block with two gates; its shortcut carries every channel.

    Args:
        block: What it is like.
        family: Names of its layers.
        shortcut: One of `structure.SHORTCUTS`.
        clamp_max: Largest saliency.
    """

    def __init__(self, block: Block, family: Family, shortcut: str = "conv", clamp_max: float = 1000.0) -> None:
        super().__init__()
        self._layers = (family.conv_a, family.norm_a, family.conv_b, family.norm_b)
        self.block = block
        inputs, outputs = block.inputs, block.outputs
        self.add_module(family.conv_a, nn.Conv2d(inputs, outputs, 3, block.stride, 1, bias=False))
        self.add_module(family.norm_a, nn.BatchNorm2d(outputs))
        self.add_module(family.conv_b, nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False))
        self.add_module(family.norm_b, nn.BatchNorm2d(outputs))
        self.downsample = _shortcut(block, family, shortcut)
        self.mb1 = Gate(inputs, outputs, block.hidden, clamp_max)
        self.mb2 = Gate(outputs, outputs, block.hidden, clamp_max)

    def layers(self) -> tuple[nn.Module, ...]:
        """Return first convolution and normalisation, second convolution and normalisation."""
        return tuple(self.get_submodule(name) for name in self._layers)

    def forward(self, x: Tensor, details: Details | None = None, gates: bool = True) -> Tensor:
        """Return the output; `details` is added to in place."""
        conv_a, norm_a, conv_b, norm_b = self.layers()
        first = F.relu(norm_a(conv_a(x)))
        if not gates:
            return F.relu(norm_b(conv_b(first)) + self.downsample(x))
        average = pool(first)
        factor = self._decide(self.mb1, pool(x), average, details)
        second = norm_b(conv_b(_scaled(first, factor)))
        # the average of what is scaled, without a pass over its pixels
        factor = self._decide(self.mb2, average * factor, None if details is None else pool(second), details)
        return F.relu(_scaled(second, factor) + self.downsample(x))

    @staticmethod
    def _decide(gate: nn.Module, seen: Tensor, feature: Tensor | None, details: Details | None) -> Tensor:
        saliency, factor = gate(seen)
        if details is not None and feature is not None:
            details.saliencies.append(saliency)
            details.factors.append(factor)
            details.features.append(feature)
        return factor  # type: ignore[no-any-return]


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    return x * factor.to(x.dtype)[:, :, None, None]


class Subsample(nn.Module):
    """Takes every second pixel and adds channels of zeros, half before and half behind (option A).

    Source: He et al., "Deep residual learning for image recognition", 2015, section 3.3.
    """

    def __init__(self, stride: int, before: int, behind: int) -> None:
        super().__init__()
        self.stride, self.before, self.behind = stride, before, behind

    def forward(self, x: Tensor) -> Tensor:
        """Return [images, before + channels + behind, h / stride, w / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


def _shortcut(block: Block, family: Family, kind: str) -> nn.Module:
    if not block.changes:
        return nn.Identity()
    if kind == "A":
        before = (block.outputs - block.inputs) // 2
        return Subsample(block.stride, before, block.outputs - block.inputs - before)
    convolution = nn.Conv2d(block.inputs, block.outputs, 1, block.stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(block.outputs)) if family.shortcut_norm else convolution


class DynamicResNet(nn.Module):
    """A residual network in which each image keeps channels of its own.

    Args:
        structure: Its layers; parameters bear the names that this gives them.
        clamp_max: Largest saliency.

    >>> from mopruning.manidp import structure
    >>> net = DynamicResNet(structure("dyresnet20")).eval()
    >>> images = torch.zeros(2, 3, 32, 32)
    >>> net(images).shape, net.details(images).kept().shape
    (torch.Size([2, 10]), torch.Size([2, 18]))
    """

    def __init__(self, structure: Structure, *, clamp_max: float = 1000.0) -> None:
        super().__init__()
        family = structure.family
        self.structure = structure
        width, kernel = structure.channels[0], family.stem_kernel
        stem = nn.Conv2d(3, width, kernel, family.stem_stride, kernel // 2, bias=False)
        self.add_module(family.stem, stem)
        self.add_module(family.stem_norm, nn.BatchNorm2d(width))
        blocks = [DynamicBlock(block, family, structure.shortcut, clamp_max) for block in structure.layers]
        self.stages: list[str] = []
        for number, count in enumerate(structure.blocks):
            self.stages.append(family.stage.format(number + 1))
            self.add_module(self.stages[-1], nn.Sequential(*(blocks.pop(0) for _ in range(count))))
        self.add_module(family.classifier, nn.Linear(structure.channels[-1], structure.classes))

    @property
    def blocks(self) -> list[DynamicBlock]:
        """Every block, in order."""
        return [module for module in self.modules() if isinstance(module, DynamicBlock)]

    @property
    def gates(self) -> list[Gate]:
        """Every gate, in the order of `Structure.gates`."""
        return [gate for block in self.blocks for gate in (block.mb1, block.mb2)]

    def forward(self, x: Tensor, details: bool = False, gates: bool = True) -> Tensor | Details:
        """Return logits [images, classes], or with `details` a `Details`.

        Args:
            x: Images [images, 3, height, width].
            details: Whether to return what the gates decided as well.
            gates: Without, every channel of every layer is kept as it is: the plain dense network.
        """
        shown = Details(x) if details else None  # until there are logits
        family = self.structure.family
        x = F.relu(self.get_submodule(family.stem_norm)(self.get_submodule(family.stem)(x)))
        if family.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x, shown, gates)
        logits: Tensor = self.get_submodule(family.classifier)(pool(x))
        if shown is None:
            return logits
        shown.logits = logits
        return shown

    def details(self, x: Tensor) -> Details:
        """Return logits and what the gates decided."""
        shown = self(x, details=True)
        assert isinstance(shown, Details)
        return shown

    def set_thresholds(self, values: Sequence[float]) -> None:
        """Set the threshold of each gate in place."""
        for gate, value in zip(self.gates, values, strict=True):
            gate.thre.fill_(value)

    def reset_sums(self) -> None:
        """Set the sums of saliencies to 0 in place."""
        for gate in self.gates:
            gate.mask_sum.zero_()


def network(
    structure: Structure,
    *,
    clamp_max: float = 1000.0,
    seed: int = 0,
    thre_init: float = NOTHING_PRUNED,
    gate_scale: float = 1.0,
) -> DynamicResNet:
    """Build a network with the weights that a training starts from; see `states.initial`."""
    net = DynamicResNet(structure, clamp_max=clamp_max)
    drawn = states.initial(structure, seed=seed, thre_init=thre_init, gate_scale=gate_scale)
    load_state(net, {name: torch.from_numpy(value) for name, value in drawn.items()})
    return net


def load_state(net: DynamicResNet, state: Mapping[str, Tensor], where: str = "state", *, gates: bool = True) -> None:
    """Load weights in place, whoever named them.

    Args:
        net: The network.
        state: Tensors by name; see `states.named`.
        where: What errors call it.
        gates: Whether weights and thresholds of gates are in it; without, those in it are dropped, and the network's
            own stay.

    Raises:
        StateError: If entries are missing, unexpected or of another shape.
    """
    found = states.accepted(net.structure, state, where, gates=gates)
    net.load_state_dict(found, strict=False)


def state_of(net: DynamicResNet) -> dict[str, Tensor]:
    """Return a network's weights, thresholds and sums by name, in the order of `states.shapes`."""
    held = net.state_dict()
    return {name: held[name] for name in states.shapes(net.structure)}
