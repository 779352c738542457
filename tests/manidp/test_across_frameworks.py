"""The same weights and thresholds: PyTorch and MindSpore answer alike, image by image, on real images.

Saliencies of the two agree to 1e-5 of their size, so a mask must be the same wherever a saliency is further than that
from its threshold. One that is nearer may fall on either side of it; then what follows in that image is of another
network, and is left out. How rare that is, is checked too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.backends.conftest import in_mode as mode_of

in_mode = contextmanager(mode_of)
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("mindspore")

from mindspore import Tensor  # noqa: E402

from mopruning import datasets, ir  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402
from mopruning.backends.mindspore import manidp as in_mindspore  # noqa: E402
from mopruning.backends.pytorch import manidp as in_pytorch  # noqa: E402
from mopruning.datasets import Images  # noqa: E402
from mopruning.ir.mindspore_ckpt import write_weights  # noqa: E402
from mopruning.manidp import Settings, Structure, states, structure, threshold  # noqa: E402
from mopruning.manidp.structure import CIFAR  # noqa: E402
from mopruning.training.data import Data  # noqa: E402

SMALL = Structure(CIFAR, (1, 1, 1), (8, 16, 32), 10, 16)
NEAR = 1e-5


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder of the test's own: MindSpore leaves one called rank_0 behind where a graph fails."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits() -> Data:
    """Handwritten digits, each pixel as four, in three equal colours."""
    pytest.importorskip("sklearn")

    def enlarged(split: str) -> Images:
        part = datasets.load("digits", split)
        pixels = part.images.repeat(2, 1).repeat(2, 2).repeat(3, 3) * (255 // part.peak)
        return Images(pixels, part.labels)

    return Data(enlarged("train")[:640], enlarged("test"), augmentation=None)


@pytest.fixture(scope="module")
def trained(digits) -> in_pytorch.DynamicResNet:
    """A small network that PyTorch has trained for a few seconds."""
    net = in_pytorch.network(SMALL, gate_scale=0.3)
    training = in_pytorch.Training(
        net, digits, Settings(epochs=4, batch_size=32, lr=0.05, target_remain_rate=0.6, thre_cls=1.0)
    )
    training.start()
    for _ in range(4):
        training.epoch()
    return net.eval()


def shown_by(net: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return logits, saliencies and factors of a network of PyTorch."""
    with torch.no_grad():
        details = net.details(torch.from_numpy(images))
    return details.logits.numpy(), [one.numpy() for one in details.saliencies], [one.numpy() for one in details.factors]


def shown_in_mindspore(net, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    details = net.set_train(False).details(Tensor(images))
    saliencies, factors = ([one.asnumpy() for one in many] for many in (details.saliencies, details.factors))
    return details.logits.asnumpy(), saliencies, factors


def assert_alike(one: tuple, other: tuple, thresholds: Sequence[float], share: float = 0.98) -> None:
    """Compare two frameworks' saliencies, masks and predictions image by image.

    At least `share` of the images have no saliency near its threshold.
    """
    same = np.ones(len(one[0]), bool)  # images in which no saliency has yet been at its threshold
    decisions = 0
    for pi, pi_2, factor, factor_2, limit in zip(one[1], other[1], one[2], other[2], thresholds, strict=True):
        scale = max(1.0, float(pi.max()))
        np.testing.assert_allclose(pi_2[same], pi[same], rtol=NEAR, atol=NEAR * scale)
        far = abs(pi - np.float32(limit)) > NEAR * scale
        np.testing.assert_array_equal((factor != 0)[same] & far[same], (factor_2 != 0)[same] & far[same])
        decisions += int((factor != 0)[same].sum())
        same &= far.all(1)
    assert same.mean() > share
    assert decisions > 0
    gap = np.diff(np.sort(one[0], 1)[:, -2:])[:, 0]
    clear = same & (gap > 1e-3)
    assert clear.mean() > share
    np.testing.assert_allclose(other[0][same], one[0][same], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(other[0].argmax(1)[clear], one[0].argmax(1)[clear])


def thresholds_of(net: in_pytorch.DynamicResNet) -> list[float]:
    return [float(gate.thre) for gate in net.gates]


def test_weights_of_pytorch_in_mindspore(trained, digits, tmp_path):
    """From its checkpoint, a state dict and a .mopir file of the exported network: the same network each time."""
    images, labels = next(digits.plain(digits.test, 400))
    wanted = shown_by(trained, images)
    assert (wanted[0].argmax(1) == labels).mean() > 0.7
    kept = np.stack([(one != 0).sum(1) for one in wanted[2]], 1)
    assert 0.3 < kept.mean() / np.mean(SMALL.gate_channels) < 0.9
    assert kept.std(0).max() > 0  # images differ in what they keep

    torch.save({"state_dict": in_pytorch.state_of(trained)}, tmp_path / "net.pth")
    ir.save(pytorch.to_ir(trained, torch.zeros(2, 3, 16, 16)), tmp_path / "net.mopir")
    for name in ("net.pth", "net.mopir"):
        net = in_mindspore.network(SMALL, seed=5)
        in_mindspore.load_state(net, in_mindspore.checkpoint.read_state(tmp_path / name)[0], name)
        with in_mode("GRAPH" if name == "net.pth" else "PYNATIVE"):
            assert_alike(wanted, shown_in_mindspore(net, images), thresholds_of(trained))
        evaluated = in_mindspore.evaluate(net, digits, digits.test)
        there = in_pytorch.Training(trained, digits, Settings()).evaluate(digits.test)
        np.testing.assert_array_equal(evaluated.predictions, there.predictions)
        np.testing.assert_array_equal(evaluated.kept, there.kept)
        np.testing.assert_allclose(evaluated.cross_entropy, there.cross_entropy, rtol=1e-3, atol=1e-3)


def test_weights_of_mindspore_in_pytorch(digits, tmp_path):
    """From a checkpoint under MindSpore's names, with thresholds of the network's own saliencies."""
    images, _ = next(digits.plain(digits.test, 200))
    net = in_mindspore.network(SMALL, seed=7, gate_scale=0.3)
    net.set_train()(Tensor(images))
    net.set_thresholds([threshold(gate.mask_sum.asnumpy() / 200, 0.6) for gate in net.gates])
    write_weights(tmp_path / "net.ckpt", {one.name: one.asnumpy() for one in net.get_parameters()})
    other = in_pytorch.network(SMALL)
    held, _ = in_mindspore.checkpoint.read_state(tmp_path / "net.ckpt")
    assert "bn_1.gamma" in held
    in_pytorch.load_state(other, {name: torch.tensor(value) for name, value in held.items()})
    assert_alike(shown_in_mindspore(net, images), shown_by(other.eval(), images), thresholds_of(other))


def test_equal_saliencies_give_equal_masks():
    """Where both frameworks have the very same saliencies, thresholds among them decide alike, to the last bit."""
    random = np.random.default_rng(0)
    biases = np.sort(random.random(8).astype(np.float32)) + np.float32(0.1)
    for limit in (*biases, *np.nextafter(biases, np.float32(2)), *np.nextafter(biases, np.float32(0))):
        one, other = in_pytorch.Gate(3, 8, 4).eval(), in_mindspore.Gate(3, 8, 4).set_train(False)
        with torch.no_grad():
            one.fc2.weight.zero_()
            one.fc2.bias.copy_(torch.from_numpy(biases))
            one.thre.fill_(float(limit))
        other.fc2.bias.set_data(Tensor(biases))
        other.thre.set_data(Tensor(np.full(1, limit, np.float32)))
        (pi, factor), (pi_2, factor_2) = one(torch.ones(2, 3)), other(Tensor(np.ones((2, 3), np.float32)))
        np.testing.assert_array_equal(pi.detach().numpy(), pi_2.asnumpy())
        np.testing.assert_array_equal(factor.detach().numpy(), factor_2.asnumpy())
        assert (factor_2.asnumpy() != 0).sum() == 2 * (biases >= limit).sum()


@pytest.mark.slow
def test_the_first_updates_are_the_same(digits):
    """Nesterov's momentum, weight decay of two kinds, learning rate, losses, running statistics, sums, limits."""
    few = Data(digits.train[:48], digits.test[:8], augmentation=None, seed=4)
    settings = Settings(epochs=4, batch_size=24, lr=0.02, decay=1e-3, decay_branch=1e-2, thre_cls=1.5)
    nets = in_pytorch.network(SMALL, gate_scale=0.3), in_mindspore.network(SMALL, gate_scale=0.3)
    one, other = in_pytorch.Training(nets[0], few, settings), in_mindspore.Training(nets[1], few, settings)
    for training in (one, other):
        training.start()
    assert other.control.limit == pytest.approx(one.control.limit, rel=1e-5)
    rows = one.epoch(), other.epoch()
    assert rows[1] == pytest.approx(rows[0], rel=1e-4)
    start, first, second = (
        states.initial(SMALL, gate_scale=0.3),
        *(
            {name: np.asarray(value) for name, value in state.items()}
            for state in (in_pytorch.state_of(nets[0]), in_mindspore.state_of(nets[1]))
        ),
    )
    for name, value in first.items():
        moved = np.abs(value - start[name]).max()
        np.testing.assert_allclose(second[name], value, rtol=0, atol=1e-3 * moved, err_msg=name)


@pytest.mark.slow
def test_a_public_resnet_on_cifar_images():
    """ResNet-20 of option A on real images of CIFAR-10, with gates whose thresholds leave part of the channels."""
    folder = os.environ.get("MOPRUNING_DATA")
    weights = sorted(Path(folder or "", "cifar_resnets").glob("resnet20-*.th"))
    if not folder or not weights:
        pytest.skip("MOPRUNING_DATA names no folder with cifar_resnets")
    try:
        test = datasets.load("cifar10", "test", folder=folder)[:200]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    kind = structure("dyresnet20", shortcut="A")
    net, other = in_pytorch.network(kind, gate_scale=0.02), in_mindspore.network(kind)
    in_pytorch.checkpoint.load_pretrained(net, weights[0])
    images, labels = next(Data(test, test, "imagenet").plain(test, 200))
    for gate, pi in zip(net.gates, shown_by(net.eval(), images)[1], strict=True):
        gate.thre.fill_(threshold(pi.mean(0), 0.9))
    in_mindspore.load_state(other, {name: value.numpy() for name, value in in_pytorch.state_of(net).items()})
    one = shown_by(net, images)
    with in_mode("GRAPH"):
        found = shown_in_mindspore(other, images)
    # 688 saliencies an image within 0.02 of their thresholds: some come nearer than 1e-5
    assert_alike(one, found, thresholds_of(net), share=0.5)
    assert (one[0].argmax(1) == labels).mean() > 0.3
    np.testing.assert_array_equal(found[0].argmax(1), one[0].argmax(1))
    for factor, factor_2 in zip(one[2], found[2], strict=True):
        np.testing.assert_array_equal(factor != 0, factor_2 != 0)
