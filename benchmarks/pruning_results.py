"""What does each kind of pruning cost in accuracy, and what does it bring? Real networks on real images.

`MOPRUNING_DATA=FOLDER python benchmarks/pruning_results.py` measures every cell, some hours on two cores, and writes
docs/results.md; `--resume` goes on where an interrupted run ended, `--page` writes the page of what there is.
`python benchmarks/pruning_results.py resnet20/filter/0.5` measures single cells anew. docs/data.md says where the
data sets and the public networks come from; `torch-pruning`, a rival, is in the extra `test`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from campaign import campaign
from page import FIGURES, ROOT, Table, facts_table, write
from pruning_subjects import CELLS, DENSE, INSIDE, RIVALS, SHRUNK, SUBJECTS, TIME, TIME_CELLS, TYPES, Subject, cells
from sessions import runner
from timing import Side, interleaved, machine
from torch import Tensor, nn
from torch.nn.utils import prune
from torch_pruning_rival import cut

from mopruning import Recipe, ir
from mopruning.backends import pytorch
from mopruning.backends.pytorch.data_parallel import Training
from mopruning.backends.pytorch.soft_pruning import PruningTraining
from mopruning.datasets.batches import Augmentation
from mopruning.datasets.loading import VARIABLE
from mopruning.ir.passes import cost
from mopruning.training.data import Data, find
from mopruning.training.soft_pruning import SoftPruning

NAME = "results"
THREADS = 1  # of what is timed: with two, the same network takes 0.3 ms or 0.5
REPEATS = 200

AMP = "bf16"

PUBLISHED = {"irregular": 92.55, "m:n": 92.42, "pattern": 92.33, "stripe": 92.24, "filter": 91.70, DENSE: 92.43}
"""Accuracy of the published data-parallel program: VGG16, 100 epochs on four GPUs, ratios of its own."""


# ---- one cell


def measure(cell: str) -> list[dict[str, Any]]:
    """Prune a network at once, fine-tune it, and say what it answers, weighs and costs."""
    name, kind, ratio = cell.split("/")
    if kind == TIME:
        return times(name)
    subject = SUBJECTS[name]
    folder = Path(os.environ[VARIABLE])
    data = images(subject)
    net = started(name, subject, folder, data)
    height, width, channels = data.train.images.shape[1:]
    example = torch.zeros(1, channels, height, width)
    training = trainings(subject, net, data, kind, ratio, example)
    if isinstance(training, PruningTraining):
        training.update_masks()
    one_shot = accuracy = training.accuracy()
    if kind != DENSE:
        for _ in range(subject.settings.epochs):
            accuracy = training.advance()["accuracy"]
    return [{"one_shot": one_shot, "accuracy": accuracy, **weighed(cell, training.net, example)}]


def images(subject: Subject) -> Data:
    """Load what a network is trained with and tested on."""
    few = [find(subject.dataset, None, part) for part in ("train", "test")]
    return Data(*few, normalize=subject.normalize, augmentation=Augmentation(padding=subject.padding))


def started(name: str, subject: Subject, folder: Path, data: Data) -> nn.Module:
    """Return the dense network: a public one, or one trained here, once."""
    torch.manual_seed(0)
    net = subject.start(folder)
    if subject.scratch:
        path = kept(f"{name}/{DENSE}/0", ".pth")
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True))
        else:
            training = Training(net, data, subject.scratch, arch=name, amp=AMP)
            for _ in range(subject.scratch.epochs):
                training.advance()
            torch.save(net.state_dict(), path)
    return net


def trainings(subject: Subject, net: nn.Module, data: Data, kind: str, ratio: str, example: Tensor) -> Training:
    """Return what prunes the network so and fine-tunes it."""
    if kind in (DENSE, *RIVALS):
        net = net if kind == DENSE else pruned_by_rival(net, kind, float(ratio), subject, example)
        return Training(net, data, subject.settings, arch=subject.title, amp=AMP)
    number = None if kind == "m:n" else float(ratio)
    recipe = Recipe(sparsity=number, granularity=TYPES[kind] or ratio, skip=subject.untouched)
    if kind in ("filter", INSIDE):
        uncut = {f"{name}.weight" for name in subject.uncut} if kind == INSIDE else set()
        groups = [group for group in pytorch.filter_groups(net, example) if not uncut & {*group.names}]
        recipe = replace(recipe, skip=tuple(sorted(uncut)), groups=tuple(groups))
    soft = SoftPruning(subject.settings.epochs, retrain_epoch=0)
    return PruningTraining(net, data, subject.settings, recipe, soft, arch=subject.title, amp=AMP)


def pruned_by_rival(net: nn.Module, rival: str, ratio: float, subject: Subject, example: Tensor) -> nn.Module:
    """Prune a network in place as another program does, and return it."""
    if rival == "torch-pruning":
        return cut(net, example, ratio, subject.uncut)
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or f"{name}.weight" in subject.untouched:
            continue
        if rival == "torch-unstructured":
            prune.l1_unstructured(module, "weight", ratio)  # type: ignore[no-untyped-call]
        elif isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", ratio, n=1, dim=0)  # type: ignore[no-untyped-call]
    return net


def weighed(cell: str, net: nn.Module, example: Tensor) -> dict[str, Any]:
    """Return sparsity, bytes and multiply-accumulates, and keep the network as .mopir."""
    for module in net.modules():
        if prune.is_pruned(module) and hasattr(module, "weight_orig"):  # type: ignore[no-untyped-call]
            prune.remove(module, "weight")  # type: ignore[no-untyped-call]
            module.weight.data += 0.0  # its zeros may be negative ones, which a file keeps bit for bit
    net.eval()
    weights = [value for value in net.parameters() if value.dim() > 1]
    sparsity = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    _, kind, _ = cell.split("/")
    model = pytorch.to_ir(pytorch.shrink(net, example).eval() if kind in SHRUNK else net, example)
    path = kept(cell, ".mopir")
    ir.save(model, path)
    costs = cost(model)
    return {
        "sparsity": sparsity,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "effective_macs": costs.effective_macs,
        "bytes": path.stat().st_size,
    }


def times(name: str) -> list[dict[str, Any]]:
    """Return, of each network whose channels were cut out, the time for an image as a share of the dense one's."""
    dense = f"{name}/{DENSE}/0"
    timed = [cell for cell in cells(name) if cell.split("/")[1] in SHRUNK]
    models = {cell: ir.load(kept(cell, ".mopir")) for cell in (dense, *timed)}
    shape = models[dense].graph.inputs[0].shape
    assert shape is not None
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    image = np.random.default_rng(0).standard_normal(sizes, np.float32)
    best = interleaved({cell: Side(runner(model, THREADS, image)) for cell, model in models.items()}, REPEATS)
    return [{"cell": cell, "time": best[cell] / best[dense]} for cell in timed]


def kept(cell: str, suffix: str) -> Path:
    """Return the file that a cell's network is kept in."""
    path = FIGURES / NAME / (cell.replace("/", "-").replace(":", "_") + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ---- the page

COLUMNS = (
    *("type", "ratio", "sparsity", "at once, %", "fine-tuned, %", "points"),
    *("file, kB", "MACs, M", "effective, M", "time"),
)
TITLES = {
    "torch-unstructured": "torch.nn.utils.prune, l1_unstructured",
    "torch-filter": "torch.nn.utils.prune, ln_structured, shrunk",
    "torch-pruning": "Torch-Pruning",
    "bank": "bank of 16",
    "filter": "filter, in groups, shrunk",
    INSIDE: "filter, inside blocks, shrunk",
}
COLOURS = dict(zip((*TYPES, *RIVALS), [*(f"C{i}" for i in range(7)), "#777777", "#aaaaaa", "#444444"], strict=True))

PAGE = """# Results

Written by `{command}`.
Every network is pruned at once, by magnitude, in every layer alike but the first and the last, and then fine-tuned with
its zeros held. Accuracy is over all 10,000 test images, after the last epoch and not the best;
over so many images, the standard deviation of an accuracy of 90% is 0.3 points. Seed 0; the forward pass of training in
bfloat16, weights and evaluation in float32; on a CPU.

![Accuracy against the size of the file and against multiply-accumulates](images/results.png)

{parts}

## How to read it

- *sparsity* is the share of zeros in all weights; of a shrunk network, before it was shrunk, and 0 where Torch-Pruning
  has cut the channels out itself. *points* is the accuracy after fine-tuning against the dense network's. *file* is the
  network as `.mopir`, whole. *MACs* are multiply-accumulates of an image, *effective* those that do not multiply by
  zero. *time* is that of an image in onnxruntime, one thread, as a share of the dense network's; it is given where the
  network really is smaller, for a mask alone makes none faster. At 0.3 the channels left, such as 45 of 64, fill no
  blocks of 16, as onnxruntime computes with AVX-512, and nothing is gained: half of the channels is the better choice.
- One epoch is far from enough for VGG16 at these ratios; its rows compare types, not what they can reach.
- "filter, in groups" takes whole channels, the same in all layers that a residual sum couples, and cuts them out
  (`filter:group`, then [`shrink`](ir.md)); the first layer takes part. `ln_structured` knows no coupling: what it
  leaves is shrunk by this package, and shrinks less.
- Torch-Pruning takes the channels that a padded shortcut adds for channels of their own, and what it leaves of this
  ResNet-20 does not run: there it is told to leave the outputs of blocks alone. "filter, inside blocks" leaves the same
  alone, to be compared with it. It ranks a channel by the mean magnitude of what makes it and what reads it,
  `filter:group` by the product of the two sums; as many channels are left in each layer.
- A mask by `torch.nn.utils.prune` keeps the dense weight beside it until it is removed; its file here is of the network
  after that, written by this package. Its zeros are the same as ours but for ties; after fine-tuning the two differ
  by chance, for the same sums are made in another order.

{machine}
"""


def table(subject: str, parts: Mapping[str, Any]) -> str:
    rows = []
    dense = parts.get(f"{subject}/{DENSE}/0", [{}])[0]
    shares = {one["cell"]: one["time"] for one in parts.get(f"{subject}/{TIME}/0", ())}
    for cell in cells(subject):
        if cell not in parts:
            continue
        (found,) = parts[cell]
        _, kind, ratio = cell.split("/")
        against = "" if kind == DENSE or not dense else f"{100 * (found['accuracy'] - dense['accuracy']):+.2f}"
        rows.append(
            [
                TITLES.get(kind, kind),
                "" if kind == DENSE else ratio,
                f"{found['sparsity']:.4f}",
                f"{100 * found['one_shot']:.2f}",
                "" if kind == DENSE else f"{100 * found['accuracy']:.2f}",
                against,
                f"{found['bytes'] / 1e3:,.0f}",
                f"{found['macs'] / 1e6:.1f}",
                f"{found['effective_macs'] / 1e6:.1f}",
                f"{shares[cell]:.2f}" if cell in shares else "",
            ]
        )
    return Table("", COLUMNS, rows).markdown()


def part(subject: str, parts: Mapping[str, Any]) -> str:
    about = SUBJECTS[subject]
    numbers = about.settings
    told = (
        f"{numbers.epochs} epoch{'s' if numbers.epochs > 1 else ''} of fine-tuning, batch {numbers.batch_size}, "
        f"learning rate {numbers.lr:g}"
        + (f", a tenth from epoch {numbers.milestones[0] + 1} on" if numbers.milestones else "")
    )
    start = "a public network"
    if about.scratch:
        start = f"trained from scratch for {about.scratch.epochs} epochs, learning rate {about.scratch.lr:g}"
    lines = [f"## {about.title}", f"Start: {start}. {told}.", table(subject, parts)]
    if subject == "vgg16":
        said = ", ".join(f"{kind} {value:.2f}" for kind, value in PUBLISHED.items())
        lines.append(
            f"The published program, on its own VGG16 and with 100 epochs on four GPUs, reached: {said}; at the ratios "
            "of its own files (filter 0.534, pattern 0.743, irregular 0.892, m:n 0.810, stripe 0.571 of all weights)."
        )
    return "\n\n".join(lines)


def picture(parts: Mapping[str, Any]) -> None:
    """Draw accuracy against the size of the file and against what is left to multiply, to docs/images/results.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SUBJECTS), figsize=(12, 7), layout="constrained", squeeze=False)
    for column, (subject, about) in enumerate(SUBJECTS.items()):
        dense = parts[f"{subject}/{DENSE}/0"][0]
        for row, (key, what) in enumerate((("bytes", "file"), ("effective_macs", "effective MACs"))):
            axis = axes[row, column]
            axis.axhline(100 * dense["accuracy"], color="#888888", linewidth=1, linestyle=":")
            for kind, colour in COLOURS.items():
                found = [parts[cell][0] for cell in cells(subject) if cell in parts and cell.split("/")[1] == kind]
                places = [one[key] / dense[key] for one in found], [100 * one["accuracy"] for one in found]
                axis.plot(*places, "x-" if kind in RIVALS else "o-", color=colour, label=TITLES.get(kind, kind))
            axis.set_xlabel(f"{what}, share of the dense network's")
            axis.set_ylabel("accuracy, %" if not column else "")
            axis.set_title(about.title if not row else "", fontsize=11)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(ROOT / "docs" / "images" / "results.png", dpi=110)
    plt.close(figure)


def main() -> int:
    asked = campaign(__doc__, NAME, CELLS, measure, last=TIME_CELLS)
    for subject in SUBJECTS:
        print(table(subject, asked.parts))
    if asked.whole:
        facts = machine("torch", "torch-pruning", "onnxruntime", "numpy")
        facts["command"] = "python benchmarks/pruning_results.py"  # also where --page only writes what it has measured
        text = PAGE.format(
            command=facts["command"],
            parts="\n\n".join(part(subject, asked.parts) for subject in SUBJECTS),
            machine=facts_table(facts),
        )
        write(NAME, text, {"machine": facts, "cells": asked.parts}, pages=ROOT / "docs")
        picture(asked.parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
