"""Skipping: a network with gates that computes, for each image, the channels that it keeps and no others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mopruning.backends.pytorch.manidp.gates import Gate
from mopruning.backends.pytorch.manidp.networks import DynamicBlock, DynamicResNet

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Skipping:
    """Answers as the network in evaluation mode does, to rounding, without computing what its gates prune.

    The weights are copied: later changes to the network do not show. Images are computed one by one, as each keeps
    channels of its own; a batch is shared among `torch.get_num_threads()` threads. The first call compiles, which is
    remembered on disk. There are no gradients.

    A saliency within rounding of a threshold may be decided the other way. Not to be called by several threads at once.

    Args:
        net: The network.

    Raises:
        ImportError: If Numba is not installed.
        ValueError: If the network is in training mode, not in float32 or not on the CPU.

    >>> from mopruning.backends.pytorch.manidp import network
    >>> from mopruning.manidp.structure import CIFAR, Structure
    >>> net, images = network(Structure(CIFAR, (1, 1), (4, 8), 10, 16)).eval(), torch.ones(2, 3, 16, 16)
    >>> torch.allclose(Skipping(net)(images), net(images), rtol=1e-4)
    True
    """

    def __init__(self, net: DynamicResNet) -> None:
        try:
            from mopruning.backends.pytorch.manidp import kernels
        except ModuleNotFoundError as error:
            if error.name not in ("numba", "llvmlite"):
                raise
            raise ImportError("skipping channels needs numba: pip install 'mopruning[skip]'") from None
        first = next(net.parameters())
        if net.training or first.dtype != torch.float32 or first.device.type != "cpu":
            raise ValueError(
                "skipping: expected a network in evaluation mode, in float32, on the CPU, got one in "
                f"{'training' if net.training else 'evaluation'} mode, in {first.dtype}, on {first.device}; "
                "call net.eval().float().cpu()"
            )
        self._kernels = kernels
        self.structure = net.structure
        family = net.structure.family
        stem = net.get_submodule(family.stem)
        assert isinstance(stem, nn.Conv2d)
        norm = net.get_submodule(family.stem_norm)
        weight, bias = _folded(stem, norm)
        self._first = weight.float(), bias.float()
        classifier = net.get_submodule(family.classifier)
        assert isinstance(classifier, nn.Linear)
        assert classifier.bias is not None
        self._classifier = classifier.weight.detach().clone(), classifier.bias.detach().clone()
        self._clamp_max = np.float32(net.gates[0].clamp_max)
        packed = _Packed()
        # of another shape than a block's convolutions, PyTorch computes it
        alike = (family.stem_kernel, family.stem_stride, family.stem_pool) == (3, 1, False)
        self._stem = np.array([packed.folded(stem, norm)] if alike else [], kernels.LINEAR)
        rows, side = [], net.structure.stem_side
        for block in net.blocks:
            rows.append(self._row(block, side, packed))
            side = block.block.side
        self._blocks = np.array(rows, kernels.BLOCK)
        self._weights = np.concatenate(packed.parts)
        self._rooms = [kernels.room(self._blocks)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits [images, classes] of images [images, 3, side, side].

        Raises:
            ValueError: If images have another side than the structure, or are not float32 on the CPU.
        """
        return self.logits_and_kept(x)[0]

    def logits_and_kept(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and how many channels each image keeps at each gate, int64 [images, gates]."""
        side = self.structure.image
        if x.ndim != 4 or x.shape[1:] != (3, side, side) or x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"skipping: expected images [images, 3, {side}, {side}] in torch.float32, on cpu, got {list(x.shape)} "
                f"in {x.dtype}, on {x.device}"
            )
        with torch.no_grad():
            found = x
            if not len(self._stem):
                family = self.structure.family
                # the kernels apply ReLU, which a pool may precede
                found = F.conv2d(x, *self._first, family.stem_stride, family.stem_kernel // 2)
                if family.stem_pool:
                    found = F.max_pool2d(found, 3, 2, 1)
            features = np.empty((len(x), self.structure.channels[-1]), np.float32)
            counts = np.empty((len(x), len(self.structure.gates)), np.int64)
            self._compute(found.contiguous().numpy(), features, counts)
            return F.linear(torch.from_numpy(features), *self._classifier), torch.from_numpy(counts)

    def _compute(self, images: NumPyArray, features: NumPyArray, counts: NumPyArray) -> None:
        workers = max(1, min(torch.get_num_threads(), len(images)))
        while len(self._rooms) < workers:
            self._rooms.append(self._kernels.room(self._blocks))

        def work(worker: int) -> None:
            for one in range(worker, len(images), workers):
                self._kernels.compute(
                    *(images[one], self._stem, self._blocks, self._weights, self._clamp_max, self._rooms[worker]),
                    *(features[one], counts[one]),
                )

        if workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))  # a list, so that an error of a thread is raised

    def _row(self, block: DynamicBlock, side: int, packed: _Packed) -> tuple[Any, ...]:
        """Return what `kernels.BLOCK` holds of a block, and add its weights in place."""
        like, kernels = block.block, self._kernels
        conv_a, norm_a, conv_b, norm_b = block.layers()
        layers = [packed.folded(conv_a, norm_a), packed.folded(conv_b, norm_b)]
        kind = kernels.IDENTITY
        downsample: tuple[int, ...] = 0, 0
        if like.changes and self.structure.shortcut == "A":
            kind = kernels.SUBSAMPLE
        elif like.changes:
            kind = kernels.CONVOLUTION
            parts = list(block.downsample) if isinstance(block.downsample, nn.Sequential) else [block.downsample]
            downsample = packed.folded(*parts)
        return (
            *(like.inputs, like.outputs, like.hidden, like.stride, side, like.side),
            *(kind, (like.outputs - like.inputs) // 2),
            *(packed.gate(block.mb1), packed.gate(block.mb2)),
            *(*layers, downsample),
        )


class _Packed:
    """Weights in one array, and where each begins."""

    def __init__(self) -> None:
        self.parts: list[NumPyArray] = []
        self._size = 0

    def _add(self, value: Tensor) -> int:
        begin = self._size
        self.parts.append(value.detach().float().contiguous().numpy().ravel())
        self._size += self.parts[-1].size
        return begin

    def gate(self, gate: Gate) -> tuple[int, ...]:
        return tuple(self._add(one) for one in (gate.fc1.weight, gate.fc2.weight, gate.fc2.bias, gate.thre))

    def folded(self, convolution: nn.Module, norm: nn.Module | None = None) -> tuple[int, ...]:
        assert isinstance(convolution, nn.Conv2d)
        return tuple(self._add(one) for one in _folded(convolution, norm))


def _folded(convolution: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that does what follows it as well, float64."""
    weight = convolution.weight.detach().double()
    if norm is None:
        return weight, weight.new_zeros(len(weight))
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fused = fuse_conv_bn_weights(
        *(weight, None, norm.running_mean.double(), norm.running_var.double()),
        *(norm.eps, norm.weight.double(), norm.bias.double()),
    )
    return fused[0].detach(), fused[1].detach()
