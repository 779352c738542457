"""The weights of ResNet-50 (He et al., 2015): 53 convolutions and one dense layer, 25,502,912 numbers."""

from __future__ import annotations

import math

import numpy as np

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the bottleneck, blocks
EXPANSION = 4  # a block gives out four times its width

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight, [out, in, *kernel], by torchvision's names."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}
    inputs = 64
    for stage, (width, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (width, inputs, 1, 1)
            found[f"{name}.conv2.weight"] = (width, width, 3, 3)
            found[f"{name}.conv3.weight"] = (EXPANSION * width, width, 1, 1)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (EXPANSION * width, inputs, 1, 1)
            inputs = EXPANSION * width
    found["fc.weight"] = (1000, inputs)
    assert (len(found), sum(map(math.prod, found.values()))) == (54, 25_502_912)
    return found


def weights(seed: int = 0, only: str = "") -> dict[str, Array]:
    """Return random weights, normal with deviation 0.02, float32, by name: of all layers or those named `only`..."""
    rng = np.random.default_rng(seed)
    wanted = {name: shape for name, shape in shapes().items() if name.startswith(only)}
    return {name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02) for name, shape in wanted.items()}
