"""Networks with gates to measure, and the dense network in PyTorch and onnxruntime beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir
import torch
from sessions import session
from torch import Tensor, nn

from mopruning.backends import pytorch
from mopruning.backends.pytorch.manidp import DynamicResNet, checkpoint, network
from mopruning.datasets import Images, batches
from mopruning.manidp import NOTHING_PRUNED, structure
from mopruning.training.data import NORMALIZATIONS

CALIBRATION = 128
"""Training images that thresholds of untrained gates are taken from."""

KEPT = 0.62
"""Share of channels that untrained gates keep, which leaves about half of the multiply-accumulates."""

PRETRAINED = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
Way = Callable[[Tensor], object]


def label(net: DynamicResNet) -> str:
    """Return what a network of CIFAR-10 is called here."""
    depth, width = 6 * net.structure.blocks[0] + 2, net.structure.channels[0] // 16
    return f"ResNet-{depth}" + (f", {width} times as wide" if width > 1 else "")


def read_images(data: Images, normalize: str) -> Tensor:
    mean, std = NORMALIZATIONS[normalize]
    (found,) = batches(data, len(data), mean=mean, std=std)
    return torch.from_numpy(found[0])


def untrained(depth: int, width: int, folder: Path, images: Tensor) -> DynamicResNet:
    """Return a public ResNet of CIFAR-10, or a wide one of random weights, with gates that keep about `KEPT`."""
    net = network(structure(f"dyresnet{depth}", width=width, shortcut="A"))
    if width == 1:
        checkpoint.load_pretrained(net, folder / "cifar_resnets" / PRETRAINED[depth])
    with torch.no_grad():
        if width > 1:  # statistics of the images, so that numbers stay moderate
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            net.train()
            net(images, gates=False)
        net.eval()
        for number, gate in enumerate(net.gates):
            gate.fc2.weight *= 0.1  # saliencies around 1, as the network would not bear others untrained
            saliencies = net.details(images).saliencies[number]
            gate.thre.fill_(saliencies.flatten().quantile(1 - KEPT))
    return net


def opened(net: DynamicResNet) -> DynamicResNet:
    """Return the network with all its gates open."""
    result = network(net.structure, clamp_max=net.gates[0].clamp_max).eval()
    result.load_state_dict(net.state_dict())
    result.set_thresholds([NOTHING_PRUNED] * len(result.gates))
    return result


class Dense(nn.Module):
    """The network without its gates."""

    def __init__(self, net: DynamicResNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x, gates=False)
        return logits


def runtime(content: bytes, threads: int) -> Way:
    opened = session(content, threads)
    (given,) = opened.get_inputs()
    return lambda x: opened.run(None, {given.name: x.numpy()})[0]


def exported(net: DynamicResNet) -> bytes:
    found = pytorch.to_ir(Dense(net), torch.zeros(1, 3, net.structure.image, net.structure.image))
    content: bytes = onnx_ir.to_proto(found).SerializeToString()
    return content
