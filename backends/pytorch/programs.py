"""Programs: `train_scratch.py` and `prune.py`, from the flags to the files."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx_ir
import torch
from torch import nn

from mopruning import ir
from mopruning.backends.pytorch import data_parallel
from mopruning.backends.pytorch.ranks import Ranks
from mopruning.backends.pytorch.soft_pruning import PruningTraining
from mopruning.backends.pytorch.trained_weights import load_weights, pretrained_file
from mopruning.backends.pytorch.writer import from_ir
from mopruning.document import read_document
from mopruning.published import from_prune_ratio
from mopruning.recipe import Recipe
from mopruning.training import flags, program
from mopruning.training.data import Data
from mopruning.training.networks import own_names, zoo_name
from mopruning.training.sets import SETS, SIDE, load_data


def train_scratch(options: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    """Train as the flags of `flags.scratch_parser` say.

    Raises:
        MopruningError: If something that was asked for cannot be done.
        OSError: If a file is not there.
    """
    model = _model(options)
    net, data = _net(options, model), _data(options)
    training = data_parallel.Training(
        *(net, data, flags.settings(options)),
        arch=options.model,
        model=model,
        device=device,
        amp=options.amp,
        ranks=ranks,
    )
    _run(training, options, device)


def prune(options: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    """Prune and fine-tune as the flags of `flags.prune_parser` say; raises what `train_scratch` does."""
    model = _model(options)
    recipe = read_ratios(options, model.graph.initializers)
    net, data = _net(options, model), _data(options)
    training = PruningTraining(
        *(net, data, flags.settings(options), recipe, flags.soft_pruning(options)),
        model=model,
        arch=options.model,
        device=device,
        amp=options.amp,
        ranks=ranks,
    )
    _run(training, options, device)


def read_ratios(options: argparse.Namespace, names: Collection[str]) -> Recipe:
    """Read the file of ratios that the flags name.

    Args:
        options: Those of `flags.prune_parser`.
        names: Of the network's parameters.

    Raises:
        RecipeError: If a ratio is out of range, or the file is no mapping.
        FileNotFoundError: If it is not there.
    """
    content, _ = read_document(flags.config_file(options))
    inner = content.get("prune_ratio")
    if isinstance(inner, Mapping):
        content["prune_ratio"] = own_names(inner, names)
    return from_prune_ratio(own_names(content, names), options.prune_type)


def _run(training: data_parallel.Training, options: argparse.Namespace, device: torch.device) -> None:
    data, ranks, names = training.data, training.ranks, flags.outputs(options)
    if options.resume is not None and not names.files.checkpoint.is_file():
        raise FileNotFoundError(f"--resume: there is no {names.files.checkpoint}")
    shared = f" in {ranks.count} processes" if ranks.count > 1 else ""
    about = (
        f"{options.model} on {options.dataset}, {device}{shared}: {len(data.train)} images to train with, "
        f"{len(data.test)} to test with"
    )
    program.run(training, options, names, about=about, first=ranks.first)


def _model(options: argparse.Namespace) -> onnx_ir.Model:
    name = zoo_name(options.model, options.dataset)
    own = {"shortcut": options.shortcut} if options.shortcut != "conv" else {}
    side = None if options.dataset == "imagenet" else SIDE
    return ir.zoo.build(name, seed=options.seed, classes=SETS[options.dataset].classes, image=side, **own)


def _net(options: argparse.Namespace, model: onnx_ir.Model) -> nn.Module:
    net: nn.Module = from_ir(model)
    weights = getattr(options, "weight_file", None)
    if options.resume is None and (weights or options.pretrained):
        file = Path(weights) if weights else pretrained_file(options.model)
        if not file.is_file():
            raise FileNotFoundError(f"--weight_file: there is no {file}")
        load_weights(net, file)
    return net


def _data(options: argparse.Namespace) -> Data:
    side = ir.zoo.NETWORKS[zoo_name(options.model, options.dataset)].image[-1]
    return load_data(
        *(options.dataset, options.data_root),
        seed=options.seed,
        normalize=options.normalize,
        side=side,
        workers=options.workers,
        most=(options.train_images, options.test_images),
    )
