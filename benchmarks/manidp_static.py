"""Prune the filters of a network once for all images, by our own recipes: the static rival of ManiDP.

    python benchmarks/manidp_static.py --like manidp_results --data_path cifar10 --pretrain_path resnet20.th \
        --shortcut A --normalize imagenet --epochs 100 --save_path static_results

It trains as `examples/manidp/main.py` does, with the same images, augmentation, rates, weight decay and pretrained
start, but without gates: cross-entropy alone, and a sparse optimizer that zeroes whole filters of the convolutions in
blocks, all layers by the same share. As many are left as give the multiply-accumulates of --macs, or those of the
finished training in the folder --like. Stem, shortcuts and classifier stay dense.

Scale and bias of the normalisation behind a zeroed filter are zeroed as well after each update, so that its channel
is zero for every image and could be cut out: what it would cost to compute is not counted.

The folder --save_path gets checkpoint.pth, log.csv, log.png and evaluation.npz in the forms of a ManiDP training; with
--resume it goes on there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mopruning import Recipe
from mopruning.backends.pytorch import SGDSparse
from mopruning.backends.pytorch.manidp import DynamicResNet, Training, checkpoint, network
from mopruning.counting import sparsity_of, zeros_of
from mopruning.datasets import Images
from mopruning.errors import FormatError, MopruningError, RecipeError, StateError
from mopruning.manidp import Evaluation, Settings, Structure, cost, flags, macs, program
from mopruning.manidp.record import Record
from mopruning.schedules import Polynomial
from mopruning.training.checkpoints import Checkpoints
from mopruning.training.data import Data
from mopruning.training.precision import PRECISIONS

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SCORES = ("magnitude", "fpgm")
RAMP = 0.3  # share of the training in which filters are taken away
_UPDATES_OF_RAMP = 4  # mask updates an epoch
_OF_GATES = (
    *(
        "target_remain_rate",
        "remain_ramp",
        "lambda_lasso",
        "lambda_graph",
        "thre_cls",
        "gamma",
        "thre_freq",
        "thre_init",
    ),
    *("clamp_max", "squeeze_rate", "decay_branch", "detach_weight", "detach_features", "gate_scale"),
)
ALIKE = ("epochs", "batch_size", "lr", "momentum", "decay")  # what a rival shares with the training that it is like


# ---- what it costs, and how many filters that leaves


def static_macs(structure: Structure, kept: NumPyArray) -> NumPyArray:
    """Return multiply-accumulates int64 [images] without gates, given how many filters are left [images, gates]."""
    return macs(structure, kept) - cost(structure).gates


class StaticEvaluation(Evaluation):
    """Answers of a network without gates; `kept` is the same for each image."""

    @property
    def macs(self) -> NumPyArray:
        return static_macs(self.structure, self.kept)


def allocate(structure: Structure, wanted: float) -> NumPyArray:
    """Return how many filters each convolution in a block keeps, int64 [gates], to cost as near to `wanted` as it can.

    Every convolution loses the same share of its filters, rounded down; from one share to the next, one convolution
    after the other.

    Raises:
        RecipeError: If that is more than the dense network takes, or less than one filter everywhere.
    """
    channels = np.asarray(structure.gate_channels)
    least, most = static_macs(structure, np.stack([np.ones_like(channels), channels])).tolist()
    if not least <= wanted <= most:
        raise RecipeError(f"{wanted:,.0f} MACs: expected {least:,} (one filter each) to {most:,} (all filters)")
    steps = [channels]
    for share in sorted({number / count for count in set(channels.tolist()) for number in range(count)}):
        for layer, count in enumerate(channels.tolist()):
            if max(1, count - zeros_of(share, count)) < steps[-1][layer]:
                steps.append(steps[-1].copy())
                steps[-1][layer] -= 1
    nearest: NumPyArray = steps[int(np.abs(static_macs(structure, np.stack(steps)) - wanted).argmin())]
    return nearest


def recipe(structure: Structure, kept: NumPyArray, score: str, schedule: Polynomial) -> Recipe:
    """Return what leaves `kept` filters in each convolution of a block, and all else dense."""
    family = structure.family
    names = [f"{block.name}.{name}.weight" for block in structure.layers for name in (family.conv_a, family.conv_b)]
    shares = [sparsity_of(count - int(left), count) for count, left in zip(structure.gate_channels, kept, strict=True)]
    return Recipe(granularity="filter", score=score, schedule=schedule, layers=dict(zip(names, shares, strict=True)))


# ---- the network


def _pairs(net: DynamicResNet) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    for block in net.blocks:
        conv_a, norm_a, conv_b, norm_b = block.layers()
        yield from ((conv_a, norm_a), (conv_b, norm_b))  # type: ignore[misc]


def kept_filters(net: DynamicResNet) -> NumPyArray:
    """Return how many filters of each convolution in a block are not zero, int64 [gates]."""
    return np.array([int(conv.weight.flatten(1).any(1).sum()) for conv, _ in _pairs(net)])


@torch.no_grad()
def silence(net: DynamicResNet) -> None:
    """Zero in place scale and bias of the normalisation behind every zeroed filter: its channel is then zero."""
    for conv, norm in _pairs(net):
        dead = ~conv.weight.flatten(1).any(1)
        norm.weight.masked_fill_(dead, 0.0)
        norm.bias.masked_fill_(dead, 0.0)


def answers(training: Training, images: Images) -> StaticEvaluation:
    """Return what a network whose filters were pruned answers."""
    found = Training.evaluate(training, images, gates=False)
    kept = np.tile(kept_filters(training.net), (len(images), 1))
    return StaticEvaluation(found.structure, found.predictions, found.labels, found.cross_entropy, kept)


class StaticTraining(Training):
    """Trains a network without its gates, while a sparse optimizer takes filters away, in place.

    Args:
        net: The network; its gates stay as they are and are not asked.
        data: The images.
        settings: The numbers; those of gates are not used.
        kept: How many filters are to be left in each convolution of a block.
        score: One of `SCORES`.
        ramp: Share of the training after which they are.
        device: See `Training`.
        amp: See `Training`.
    """

    def __init__(
        self,
        net: DynamicResNet,
        data: Data,
        settings: Settings,
        kept: NumPyArray,
        *,
        score: str = SCORES[0],
        ramp: float = RAMP,
        device: torch.device | str = "cpu",
        amp: str = "none",
    ) -> None:
        super().__init__(net, data, settings, device=device, amp=amp)
        self.asked = {"kept": [int(left) for left in kept], "score": score, "ramp": ramp}
        length = round(ramp * settings.epochs * self.updates)
        schedule = Polynomial(length=length, frequency=max(1, self.updates // _UPDATES_OF_RAMP))
        self._optimizer: SGDSparse = SGDSparse(
            [(name, value) for name, value in net.named_parameters() if "mb" not in name],
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.decay,
            recipe=recipe(net.structure, kept, score, schedule),
        )

    def start(self) -> Evaluation:
        """Return what the dense network answers for the test images."""
        return self.evaluate(self.data.test)

    def begin(self) -> list[str]:
        dense = self.start()
        return [f"dense start: accuracy {dense.accuracy:.2%}, {dense.mean_macs:,.0f} MACs"]

    def epoch(self, shown: Callable[[int, Tensor], None] | None = None) -> dict[str, float]:
        """Train an epoch; returns and raises what `Training.epoch` does, penalties being 0."""
        net, control = self.net.train(), self.control
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        rate = self.settings.lr
        for update, (images, labels) in enumerate(self._batches()):
            rate = control.learning_rate(update)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            with self._precision.autocast():
                logits = net(images, gates=False)
            loss = F.cross_entropy(logits.float(), labels)
            self._precision.update(loss, self._optimizer)
            silence(net)
            with torch.no_grad():
                right = (logits.argmax(1) == labels).sum()
                totals += torch.stack([torch.ones_like(right) * len(labels), right, loss * len(labels)]).double()
            if shown is not None:
                shown(update + 1, loss.detach())
        count, right_ones, cross_entropy = totals.tolist()
        mean = cross_entropy / count
        return self._end_epoch(rate, int(count), [], loss=mean, cross_entropy=mean, right=right_ones) | {"limit": 0.0}

    def evaluate(self, images: Images, *, gates: bool = False) -> Evaluation:
        """Return what the network answers without gates, in float32."""
        if gates:
            raise ValueError("a network whose filters are pruned for all images alike has no gates")
        return answers(self, images)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"static": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            StateError: If it is of another training.
        """
        if state.get("static") != self.asked:
            raise StateError(f"the saved training was asked for {state.get('static')}, this one for {self.asked}")
        super().load_state_dict(state)


# ---- the program


def parser() -> argparse.ArgumentParser:
    result = flags.parser(__doc__)
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    result.set_defaults(save_path="static_results")
    result.add_argument("--macs", type=float, help="multiply-accumulates of an image in the end")
    result.add_argument("--like", type=Path, help="folder of a finished ManiDP training: as many as it takes")
    result.add_argument("--score", default=SCORES[0], choices=SCORES, help="which filters stay")
    result.add_argument("--ramp", type=float, default=RAMP, help="share of the training after which none is taken away")
    result.add_argument("--amp", default="none", choices=PRECISIONS, help="precision of convolutions")
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    result.add_argument("--device", default=usual, choices=("cpu", "cuda"), help="where to train")
    return result


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a flag of gates is an error here."""
    result = parser()
    options = flags.parse(result, arguments)
    for name in _OF_GATES:
        if getattr(options, name) != result.get_default(name):
            result.error(f"--{name} is about gates, and there are none")
    if not 0.0 <= options.ramp <= 1.0:
        result.error(f"--ramp must be from 0 to 1, got {options.ramp}")
    if options.device == "cuda" and not torch.cuda.is_available():
        result.error("--device cuda: this machine has none that PyTorch can use")
    if options.macs is not None and options.like is not None:
        result.error("--macs and --like both say what an image may cost: give one")
    return options


def differences(before: Record, now: Record, word: str = "now") -> list[str]:
    """Say in what a training and its rival differ beyond gates; empty where they can be compared."""
    then, present = (
        {name: getattr(one.settings, name) for name in ALIKE} | {"normalize": one.normalize} for one in (before, now)
    )
    found = [f"{name} {then[name]!r}, {word} {value!r}" for name, value in present.items() if value != then[name]]
    return found + ([f"a network of {before.structure}"] if before.structure != now.structure else [])


def macs_of(folder: Path, then: Record) -> float:
    """Return the mean multiply-accumulates of a finished training that was as long as this one is to be.

    Raises:
        FormatError: If the folder holds none.
        StateError: If it was another training.
    """
    content = checkpoint.read(folder / "checkpoint.pth")
    record = Record.of(content, str(folder))
    result = folder / "evaluation.npz"
    if content["epoch"] < record.settings.epochs or not result.exists():
        raise FormatError(
            f"--like {folder}: has completed {content['epoch']} of {record.settings.epochs} epochs; "
            "wait for its end, or say --macs"
        )
    if found := differences(record, then):
        raise StateError(f"--like {folder}: was trained with {'; '.join(found)}")
    with np.load(result, allow_pickle=False) as held:
        return float(held["macs"].mean())


def run(options: argparse.Namespace) -> None:
    structure, settings = flags.network_structure(options), flags.settings(options)
    data = flags.data(options)
    wanted = options.macs
    if wanted is None:
        wanted = macs_of(options.like, Record(structure, settings, data.normalize))
    kept = allocate(structure, wanted)
    reached = int(static_macs(structure, kept[None])[0])
    print(f"asked for {wanted:,.0f} MACs, reached {reached:,}; filters kept: {' '.join(map(str, kept))}", flush=True)
    net = network(structure, seed=settings.seed)
    if options.pretrain_path and not options.resume:
        checkpoint.load_pretrained(net, flags.pretrained_file(options.pretrain_path, options.arch))
    training = StaticTraining(
        *(net, data, settings, kept), score=options.score, ramp=options.ramp, device=options.device, amp=options.amp
    )
    place = Checkpoints("checkpoint.pth", partial(checkpoint.save, training), partial(checkpoint.restore, training))
    program.run(training, options, place, options.device)


def main() -> int:
    options = read_options()
    if options.macs is None and options.like is None:
        print("left out: it trains for hours; --macs or --like says what an image may cost")
        return 0
    try:
        run(options)
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"manidp_static.py: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
