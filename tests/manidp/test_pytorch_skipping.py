"""Channels really skipped: the masked network's outputs, whatever the gates keep, at any batch size."""

from __future__ import annotations

import builtins
import doctest
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch.manidp import DynamicResNet, network  # noqa: E402
from mopruning.backends.pytorch.manidp import skipping as skipping_module  # noqa: E402
from mopruning.backends.pytorch.manidp.skipping import Skipping  # noqa: E402
from mopruning.manidp import Structure  # noqa: E402
from mopruning.manidp.structure import CIFAR, IMAGENET  # noqa: E402

NETWORKS = {
    "conv": Structure(CIFAR, (1, 2, 1), (4, 6, 8), classes=10, image=16),
    "A": Structure(CIFAR, (1, 2, 1), (5, 7, 10), classes=10, image=16, shortcut="A"),
    "imagenet": Structure(IMAGENET, (1, 1, 2, 1), (4, 6, 8, 11), classes=7, image=64),
    "odd sides": Structure(CIFAR, (1, 1, 1), (4, 9, 9), classes=3, image=21),
    "single channel": Structure(CIFAR, (1, 1), (1, 1), classes=2, image=8),
    "long vectors": Structure(CIFAR, (1, 1, 1), (8, 16, 32), classes=10, image=32),
}
KEPT = {"every gate closed": 0.0, "few": 0.3, "about half": 0.5, "every gate open": 1.0}


@pytest.fixture(autouse=True)
def numba(request):
    if request.function is not test_without_numba_the_error_names_what_to_install:
        pytest.importorskip("numba")


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32))


def calibrated(structure: Structure, kept: float) -> DynamicResNet:
    """A network with uneven normalisations, whose gates keep about this share of all channels of all images.

    Each threshold lies in the middle of the widest gap around its place, so that rounding decides nothing.
    """
    torch.manual_seed(3)
    net = network(structure, clamp_max=3.0).eval()
    seen = images(12, structure.image)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for gate in net.gates:
            gate.fc2.weight *= 0.2
        for norm in norms:
            norm.weight.uniform_(0.5, 1.0)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None  # statistics of the images, so that numbers stay moderate
            norm.train()
        net(seen, gates=False)
        net.eval()
        for number, gate in enumerate(net.gates):
            found = net.details(seen).saliencies[number].flatten().sort().values
            if kept == 0:
                gate.thre.fill_(found[-1] + 1)
            elif kept < 1:
                place = int((1 - kept) * len(found))
                near = found[max(place - 5, 0) : place + 5]
                gap = int((near[1:] - near[:-1]).argmax())
                gate.thre.fill_((near[gap] + near[gap + 1]) / 2)
    return net


def assert_alike(net: DynamicResNet, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        details = net.details(x)
        logits, kept = Skipping(net).logits_and_kept(x)
    assert torch.equal(kept, details.kept())
    torch.testing.assert_close(logits, details.logits, rtol=1e-5, atol=1e-5)
    return kept


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_masked_network_s(name, kept):
    structure = NETWORKS[name]
    net = calibrated(structure, KEPT[kept])
    for x in (images(12, structure.image), images(12, structure.image)[4:5]):
        counts = assert_alike(net, x)
        if kept == "every gate closed":
            assert counts.sum() == 0
        elif kept != "every gate open":
            assert 0 < counts.sum() < len(x) * sum(structure.gate_channels)


def test_open_gates_keep_all_but_saliencies_of_zero():
    structure = NETWORKS["A"]
    net = calibrated(structure, 1.0)
    with torch.no_grad():
        for gate in net.gates:
            gate.fc2.weight *= 0.01
            gate.fc2.bias.copy_(torch.linspace(0.5, 5.0, len(gate.fc2.bias)))  # some at the clamp
            gate.fc2.bias[0] = -1e3
    kept = assert_alike(net, images(4, structure.image))
    assert (kept == torch.tensor(structure.gate_channels) - 1).all()


def test_a_saliency_of_the_threshold_is_kept():
    structure = NETWORKS["conv"]
    net = calibrated(structure, 1.0)
    with torch.no_grad():
        for gate in net.gates:
            gate.fc2.weight.zero_()
            gate.fc2.bias.copy_(torch.linspace(0.5, 1.5, len(gate.fc2.bias)))
            gate.thre.copy_(gate.fc2.bias[2])
    kept = assert_alike(net, images(3, structure.image))
    assert (kept == torch.tensor(structure.gate_channels) - 2).all()


def test_images_do_not_disturb_each_other_and_calls_repeat():
    structure = NETWORKS["conv"]
    fast = Skipping(calibrated(structure, 0.5))
    x = images(9, structure.image)
    together = fast(x)
    one_by_one = torch.cat([fast(x[number : number + 1]) for number in reversed(range(len(x)))]).flip(0)
    torch.testing.assert_close(together, one_by_one, rtol=1e-6, atol=1e-6)
    assert torch.equal(fast(x), together)


def test_nan_shows_and_stays_where_it_is():
    structure = NETWORKS["conv"]
    fast = Skipping(calibrated(structure, 0.5))
    x = images(3, structure.image)
    before = fast(x)
    damaged = x.clone()
    damaged[1, 0, 3, 3] = torch.nan
    found = fast(damaged)
    assert found[1].isnan().all()
    assert torch.equal(found[::2], before[::2])
    assert torch.equal(fast(x), before)


def test_threads_share_a_batch():
    structure = NETWORKS["A"]
    fast = Skipping(calibrated(structure, 0.5))
    x = images(11, structure.image)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = fast(x)
        torch.set_num_threads(3)
        torch.testing.assert_close(fast(x), alone, rtol=1e-6, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_an_empty_batch_and_other_memory_formats():
    structure = NETWORKS["conv"]
    fast = Skipping(calibrated(structure, 0.5))
    assert fast(images(0, structure.image)).shape == (0, 10)
    x = images(3, structure.image)
    torch.testing.assert_close(fast(x.to(memory_format=torch.channels_last)), fast(x), rtol=1e-5, atol=1e-5)


def test_later_changes_to_the_network_do_not_show():
    structure = NETWORKS["conv"]
    net = calibrated(structure, 0.5)
    fast, x = Skipping(net), images(2, structure.image)
    before = fast(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(fast(x), before)


def test_refused_networks_and_images():
    net = calibrated(NETWORKS["conv"], 0.5)
    with pytest.raises(ValueError, match=r"in training mode.*call net\.eval"):
        Skipping(net.train())
    with pytest.raises(ValueError, match=r"in torch\.float64"):
        Skipping(net.eval().double())
    fast = Skipping(net.float())
    with pytest.raises(ValueError, match=r"\[images, 3, 16, 16\].*got \[2, 3, 32, 32\]"):
        fast(images(2, 32))
    with pytest.raises(ValueError, match=r"torch\.float64"):
        fast(images(2, 16).double())


def test_without_numba_the_error_names_what_to_install(monkeypatch):
    net = calibrated(NETWORKS["conv"], 0.5)
    real = builtins.__import__

    def blocked(name, *arguments, **options):
        if name.split(".")[0] == "numba":
            raise ModuleNotFoundError(f"No module named {name!r}", name="numba")
        return real(name, *arguments, **options)

    package = sys.modules["mopruning.backends.pytorch.manidp"]
    monkeypatch.delitem(sys.modules, "mopruning.backends.pytorch.manidp.kernels", raising=False)
    monkeypatch.delattr(package, "kernels", raising=False)
    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ImportError, match=r"needs numba: pip install 'mopruning\[skip\]'"):
        Skipping(net)


def test_doctests():
    result = doctest.testmod(skipping_module)
    assert result.attempted > 0
    assert result.failed == 0
