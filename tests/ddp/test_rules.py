"""What no framework is needed for: when masks change, how zeros are counted, names, sets, and the published oracles."""

from __future__ import annotations

import doctest
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from mopruning import NM, ir
from mopruning.datasets import Images
from mopruning.datasets.batches import Augmentation
from mopruning.document import read_document
from mopruning.errors import RecipeError, WeightError
from mopruning.plan import Plan
from mopruning.published import from_prune_ratio
from mopruning.training.accounting import accounting
from mopruning.training.loss import check_loss
from mopruning.training.networks import IMAGENET, LINEAR_HEADS, SMALL, TWO_SHORTCUTS, own_names, zoo_name
from mopruning.training.program import Outputs
from mopruning.training.sets import SETS, in_colour, load_data
from mopruning.training.settings import Settings
from mopruning.training.soft_pruning import SoftPruning

CONFIGS = Path(__file__).resolve().parents[2] / "examples/ddp/prune_config"
MODULES = (
    *("accounting", "agreement", "checkpoints", "data", "loss", "networks", "pictures", "program", "rows"),
    *("sets", "settings", "soft_pruning"),
)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.training.{name}"))
    assert result.failed == 0
    assert result.attempted or name == "pictures"


# ---- when


@pytest.mark.parametrize(
    ("soft", "updates", "sparse"),
    [
        (SoftPruning(6, 4, 2), [0, 2, 3], [0, 2, 3, 4, 5]),
        (SoftPruning(6, 4, 5), [0, 3], [0, 3, 4, 5]),
        (SoftPruning(3, 0, 1), [], [0, 1, 2]),  # masks of the start hold from the start
        (SoftPruning(3, 9, 2), [0, 2], [0, 2]),  # the last epoch ends with masks applied
        (SoftPruning(100, 50, 5), [*range(0, 50, 5), 49], [*range(0, 50, 5), *range(49, 100)]),  # as published
    ],
)
def test_when_masks_change(soft, updates, sparse):
    assert [epoch for epoch in range(soft.epochs) if soft.updates(epoch)] == updates
    assert [epoch for epoch in range(soft.epochs) if soft.sparse(epoch)] == sparse
    assert not any(soft.updates(epoch) for epoch in range(soft.epochs) if soft.frozen(epoch))


@pytest.mark.parametrize("numbers", [{"prune_freq": 0}, {"retrain_epoch": -1}, {"epochs": 1.5}])
def test_numbers_out_of_range(numbers):
    with pytest.raises(RecipeError, match=f"{next(iter(numbers))} must be a whole number"):
        SoftPruning(**({"epochs": 3} | numbers))


def test_rates_and_seeds():
    settings = Settings(lr=0.05, milestones=(40, 70, 90))
    assert [settings.learning_rate(epoch) for epoch in (0, 39, 40, 70, 99)] == pytest.approx(
        [0.05, 0.05, 0.005, 0.0005, 0.00005]
    )
    assert len({Settings(seed=seed).draw(epoch, rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1)}) == 8
    with pytest.raises(RecipeError, match="lr must be a finite number"):
        Settings(lr=math.nan)
    with pytest.raises(WeightError, match="epoch 1: the loss is inf"):
        check_loss(0, math.inf)


# ---- the published sparsities


def plan(name: str, zoo: str) -> tuple[Plan, dict[str, tuple[int, ...]]]:
    """Plan a configuration for a network of the zoo; no weight is drawn."""
    shapes = {
        key: tuple(value.shape.numpy())
        for key, value in ir.zoo.build(zoo).graph.initializers.items()
        if key.endswith(("weight", "bias"))
    }
    content, _ = read_document(CONFIGS / f"{name}.yaml")
    content["prune_ratio"] = own_names(content["prune_ratio"], shapes)
    recipe = from_prune_ratio(content, f"{name.rpartition('_')[2]}_prune")
    return recipe.plan(shapes), shapes


def overall(found: Plan, shapes: dict[str, tuple[int, ...]], zeros) -> float:
    counts = {name: (0, math.prod(shape)) for name, shape in shapes.items()}
    for row in found.pruned:
        counts[row.name] = (zeros(row), math.prod(row.shape))
    return accounting(counts).overall


def ours(row) -> int:
    return row.granularity.zeros(row.shape, row.target)


def as_published(row) -> int:
    """What the published rule leaves out: it keeps k = int(n (1 - ratio)) units less one, the one at the threshold."""
    units = {"filter": row.shape[0], "stripe": row.shape[0] * 9, "unstructured": math.prod(row.shape)}
    if (found := units.get(str(row.granularity))) is not None:
        return (found - int(found * (1 - row.target)) + 1) * (math.prod(row.shape) // found)
    if isinstance(row.granularity, NM):
        return ours(row)
    kernels = row.shape[0] * row.shape[1]
    if row.target < 0.5:
        return 4 * kernels  # patterns alone
    removed = (row.target - 4 / 9) / (5 / 9)
    return 4 * kernels + 5 * (kernels - int(kernels * (1 - removed)) + 1)


@pytest.mark.parametrize(
    ("name", "published", "exact"),
    [
        # of the published log, to the last digit: its rule leaves out one or two units more in each layer
        ("vgg16_cifar10_filter", 0.5340591399018249, 0.5295982121505932),
        ("vgg16_cifar10_pat", 0.7430827902103071, 0.7430766759729746),
    ],
)
def test_the_published_sparsities_to_the_last_digit(name, published, exact):
    found, shapes = plan(name, "vgg16_cifar")
    assert sum(math.prod(shape) for key, shape in shapes.items() if "bias" not in key) == 14_719_808
    assert overall(found, shapes, as_published) == published
    # ours are the exact counts: floor(ratio * n + 1e-9) units of each layer, so a little fewer
    assert overall(found, shapes, ours) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "published", "exact"),
    [
        ("vgg16_cifar10_irre", 0.8921, 0.8921),
        ("vgg16_cifar10_mn", 0.8104, 0.8104),
        ("vgg16_cifar10_stripe", 0.5713, 0.5709),
    ],
)
def test_the_published_sparsities_that_were_calculated(name, published, exact):
    """To the four digits that they are known with."""
    found, shapes = plan(name, "vgg16_cifar")
    assert round(overall(found, shapes, as_published), 4) == published
    assert round(overall(found, shapes, ours), 4) == exact


def test_block4_3_of_the_published_log():
    found, _ = plan("vgg16_cifar10_filter", "vgg16_cifar")
    row = next(row for row in found.pruned if row.name == "block4.3.weight")
    assert round(as_published(row) / math.prod(row.shape), 4) == 0.6035
    assert ours(row) == 307 * math.prod(row.shape[1:])


def test_resnet18_as_published():
    found, shapes = plan("resnet18_imagenet_irre", "resnet18")
    counts = {name: (0, math.prod(shape)) for name, shape in shapes.items()}
    counts |= {row.name: (ours(row), math.prod(row.shape)) for row in found.pruned}
    told = accounting(counts, LINEAR_HEADS["resnet18"])
    assert accounting(counts).linear is None  # in other networks, fc is what the published program counts it as
    assert (round(told.overall, 4), round(told.conv, 4), round(told.linear, 4)) == (0.7313, 0.7556, 0.2)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_prunes_all_that_it_names(file):
    model, dataset, _ = file.stem.rsplit("_", 2)
    found, _ = plan(file.stem, zoo_name(model, dataset))
    content, _ = read_document(file)
    assert len(found.pruned) == len(content["prune_ratio"])
    assert not [row.name for row in found.rows if row.misfit]


def test_every_network_is_in_the_zoo():
    assert {*SMALL.values(), *IMAGENET.values()} <= set(ir.zoo.names())
    with pytest.raises(RecipeError, match=r"--model for cifar10: 'squeezenet1_0' is unknown; did you mean"):
        zoo_name("squeezenet1_0", "cifar10")
    assert (zoo_name("resnet18", "cifar10"), zoo_name("resnet18", "imagenet")) == ("resnet18_cifar", "resnet18")
    assert zoo_name("resnet8x4", "imagenet_32x32") == "resnet8x4_cifar"
    with_two = {name for name, zoo in SMALL.items() if len(ir.zoo.NETWORKS[zoo].choices.get("shortcut", ())) > 1}
    assert with_two == set(TWO_SHORTCUTS)
    assert LINEAR_HEADS.keys() <= IMAGENET.keys() & {*SMALL, "resnet101"}


def test_a_wrong_name_is_not_made_right():
    names = ["conv1.weight", "fc.weight"]
    given = {"conv2.weight": 1, "last_linear.bias": 2, "linear.weight": 3, "fc.weight": 4}
    assert own_names(given, names) == {"conv2.weight": 1, "last_linear.bias": 2, "fc.weight": 4}
    assert own_names({"linear.weight": 3}, ["fc.weight", "classifier.weight"]) == {"linear.weight": 3}


# ---- images and files


def test_images_become_coloured_and_32_wide():
    torch = pytest.importorskip("torch")
    grey = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    found = in_colour(Images(grey, np.arange(3)))
    assert found.images.shape == (3, 32, 32, 3)
    assert (found.images[..., :1] == found.images).all()
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(grey.transpose(0, 3, 1, 2)).float(), size=(32, 32), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found.images[..., 0], wanted[:, 0].numpy(), atol=0.51)
    same = Images(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2))
    assert in_colour(same).images is same.images


def test_digits_are_there_without_a_folder(tmp_path):
    pytest.importorskip("sklearn")
    found = load_data("digits", tmp_path / "none", most=(5, None))
    assert (len(found.train), len(found.test), found.normalize) == (5, 360, "digits")
    pixels, _ = next(found.plain(found.test, 360))
    assert pixels.shape == (360, 3, 32, 32)
    assert abs(float(pixels.mean())) < 0.05
    published = {"mnist", "cifar10", "cifar100", "svhn", "imagenet", "imagenet_32x32"}
    assert set(SETS) == published | {"fashion-mnist", "digits"}


@pytest.mark.parametrize("root", [".", "ImageNet32"])
def test_downsampled_imagenet_is_found_by_its_published_name(root, tmp_path):
    folder = tmp_path / root
    for part in ("train", "val"):
        (folder / f"Imagenet32_{part}_npz").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (21, 3072), np.uint8)
    for number in range(10):
        rows = slice(2 * number, 2 * number + 2)
        file = folder / f"Imagenet32_train_npz/train_data_batch_{number + 1}.npz"
        np.savez(file, data=pixels[rows], labels=np.array([1000, number + 1]), mean=pixels.mean(0))
    np.savez(folder / "Imagenet32_val_npz/val_data.npz", data=pixels[20:], labels=np.array([7]))
    found = load_data("imagenet_32x32", tmp_path)
    assert (len(found.train), len(found.test), found.normalize) == (20, 1, "imagenet_32x32")
    assert (found.augmentation, SETS["imagenet_32x32"].classes) == (Augmentation(), 1000)
    np.testing.assert_array_equal(found.train.images[5].transpose(2, 0, 1).reshape(-1), pixels[5])
    assert found.train.labels[:4].tolist() == [999, 0, 999, 1]
    assert found.test.labels.tolist() == [6]


def test_imagenet_lies_in_the_published_folders(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, part in enumerate(("train", "val_")):
        (tmp_path / "ImageNet1K" / part / "n01").mkdir(parents=True)
        image.new("RGB", (60, 50), (number, 0, 0)).save(tmp_path / "ImageNet1K" / part / "n01/0.png")
    found = load_data("imagenet", tmp_path, side=32)
    assert (len(found.train), len(found.test), found.normalize) == (1, 1, "imagenet")
    pixels, labels = next(found.plain(found.test, 1))
    assert (pixels.shape, labels.tolist()) == ((1, 3, 32, 32), [0])
    np.testing.assert_allclose(pixels[0, 0], (1 / 255 - 0.485) / 0.229, rtol=1e-5)


def test_files_of_a_training_that_goes_on():
    usual = Outputs(Path("out"), "pat_prune", "cifar10", "vgg16", "a")
    there = usual.of_checkpoint(Path("there/cifar10_vgg16-b-c.resume.pth"))
    assert (there.best, there.last) == (Path("there/cifar10_vgg16-b-c.pth"), Path("there/cifar10_vgg16_le-b-c.pth"))
    assert there.files.checkpoint == Path("there/cifar10_vgg16-b-c.resume.pth")
    assert there.log == Path("out/log-cifar10-vgg16-b-c.txt")
    with pytest.raises(RecipeError, match=r"expected the name cifar10_vgg16-TAG\.resume\.pth"):
        usual.of_checkpoint(Path("there/cifar10_vgg16-b.pth"))
    scratch = Outputs(Path("."), "scratch", "cifar10", "vgg16", "test")
    assert scratch.best.as_posix() == "checkpoints/scratch/cifar10_vgg16_scratch_ddp-test.pth"
