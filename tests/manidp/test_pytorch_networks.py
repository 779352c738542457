"""Gates and networks in PyTorch: the core's names, saliencies and masks; the dense network without gates."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch import to_ir  # noqa: E402
from mopruning.backends.pytorch.manidp import DynamicResNet, Gate, load_state, network, state_of  # noqa: E402
from mopruning.backends.pytorch.manidp.gates import pool  # noqa: E402
from mopruning.errors import StateError  # noqa: E402
from mopruning.manidp import Structure, gate, saliency, states, structure  # noqa: E402
from mopruning.manidp.structure import CIFAR, IMAGENET  # noqa: E402

TINY = Structure(CIFAR, (1, 2, 1), (4, 6, 8), classes=10, image=16)
SHAPES = {
    "conv": TINY,
    "A": Structure(CIFAR, (1, 2, 1), (4, 6, 8), 10, 16, shortcut="A"),
    "imagenet": Structure(IMAGENET, (1, 1, 1, 1), (4, 6, 8, 10), 7, 64),
}


def images(count: int = 6, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32))


def calibrated(chosen: Structure = TINY, seed: int = 0) -> DynamicResNet:
    """A network in evaluation mode whose thresholds keep some channels of some images, not all of any gate."""
    net = network(chosen, seed=seed).eval()
    with torch.no_grad():
        for number, found in enumerate(net.gates):
            pi = net.details(images(32, chosen.image, seed=9)).saliencies[number]
            found.thre.fill_(pi.median().item())
    return net


@pytest.mark.parametrize("name", ["gates", "networks"])
def test_doctests(name):
    module = sys.modules[f"{Gate.__module__.rpartition('.')[0]}.{name}"]
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("kind", SHAPES)
def test_names_and_shapes_are_the_core_s(kind):
    chosen = SHAPES[kind]
    net = DynamicResNet(chosen)
    own = {name: tuple(value.shape) for name, value in net.state_dict().items() if "num_batches" not in name}
    assert own == states.shapes(chosen)
    assert list(state_of(net)) == list(states.shapes(chosen))
    names = {id(module): name for name, module in net.named_modules()}
    assert tuple(names[id(one)] for one in net.gates) == chosen.gates


@pytest.mark.parametrize("name", ["dyresnet20", "dyresnet32", "dyresnet44", "dyresnet56", "resnet18", "dyresnet34"])
def test_every_architecture_is_built(name):
    chosen = structure(name)
    own = {key: tuple(value.shape) for key, value in DynamicResNet(chosen).state_dict().items()}
    assert {key: shape for key, shape in own.items() if "num_batches" not in key} == states.shapes(chosen)


@pytest.mark.parametrize("limit", [-10000.0, 0.7, 1.0, 5.0])
def test_gate_agrees_with_the_reference(limit):
    rng = np.random.default_rng(1)
    arrays = {"fc1.weight": (5, 3), "fc2.weight": (8, 5), "fc2.bias": (8,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in arrays.items()}
    pooled = rng.random((40, 3), np.float32)
    one = Gate(3, 8, 5, clamp_max=1.5)
    one.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    one.thre.fill_(limit)
    pi, factor = one(torch.from_numpy(pooled))
    wanted = saliency(pooled, *weights.values(), clamp_max=1.5)
    np.testing.assert_allclose(pi.detach(), wanted, rtol=1e-5, atol=1e-6)
    assert (wanted == 0).any()
    assert (wanted == 1.5).any()
    np.testing.assert_array_equal(factor.detach() != 0, gate(wanted, np.float32(limit)) != 0)
    np.testing.assert_array_equal(factor.detach(), gate(pi.detach().numpy(), np.float32(limit)))


def test_a_saliency_of_the_threshold_itself_is_kept():
    one = Gate(2, 3, 2)
    torch.nn.init.zeros_(one.fc2.weight)
    one.thre.fill_(1.0)
    assert one(torch.ones(1, 2))[1].tolist() == [[1.0, 1.0, 1.0]]


def test_sums_grow_in_training_only():
    one = Gate(3, 4, 2)
    first, second = torch.rand(5, 3), torch.rand(2, 3)
    one.eval()(first)
    assert not one.mask_sum.any()
    one.train()
    sums = one(first)[0].sum(0) + one(second)[0].sum(0)
    torch.testing.assert_close(one.mask_sum, sums.detach())
    assert not one.mask_sum.requires_grad


def test_gradients_flow_through_kept_channels_only():
    one = Gate(3, 4, 2)
    torch.nn.init.zeros_(one.fc2.weight)
    with torch.no_grad():
        one.fc2.bias.copy_(torch.tensor([0.2, 0.6, 0.4, 0.8]))
    one.thre.fill_(0.5)
    one(torch.ones(1, 3))[1].sum().backward()
    assert one.fc2.bias.grad.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("kind", SHAPES)
def test_network_is_what_the_formulas_say(kind):
    """Recomputed block by block, from masks of the reference and with every image on its own."""
    chosen = SHAPES[kind]
    net = calibrated(chosen)
    x = images(3, chosen.image)
    with torch.no_grad():
        details = net.details(x)
        assert sum((factor == 0).sum() for factor in details.factors) > 0
        for image in range(len(x)):
            seen = []
            hooks = [
                module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs[0], output)))
                for module in net.blocks
            ]
            alone = net.details(x[image : image + 1])
            for hook in hooks:
                hook.remove()
            for number, (block, (before, after)) in enumerate(zip(net.blocks, seen, strict=True)):
                conv_a, norm_a, conv_b, norm_b = block.layers()
                out = torch.relu(norm_a(conv_a(before)))
                factors, features = [], []
                for position, (one, what) in enumerate(((block.mb1, before), (block.mb2, None))):
                    if position:
                        what, out = out, norm_b(conv_b(out))
                    weights = [one.fc1.weight, one.fc2.weight, one.fc2.bias]
                    pi = saliency(pool(what).numpy(), *(weight.numpy() for weight in weights))
                    factors.append(torch.from_numpy(gate(pi, one.thre.item())))
                    features.append(pool(out))
                    out = out * factors[-1][:, :, None, None]
                out = torch.relu(out + block.downsample(before))
                torch.testing.assert_close(after, out, rtol=1e-5, atol=1e-5)
                for position in range(2):
                    gate_number = 2 * number + position
                    torch.testing.assert_close(alone.features[gate_number], features[position], rtol=1e-5, atol=1e-5)
                    kept = alone.factors[gate_number] != 0
                    torch.testing.assert_close(kept, factors[position] != 0)
                    torch.testing.assert_close(kept[0], details.factors[gate_number][image] != 0)
            torch.testing.assert_close(alone.logits[0], details.logits[image], rtol=1e-4, atol=1e-4)


def test_kept_counts_the_channels_of_each_image():
    details = calibrated().details(images())
    wanted = np.stack([(factor.detach().numpy() != 0).sum(1) for factor in details.factors], 1)
    np.testing.assert_array_equal(details.kept(), wanted)
    assert details.kept().shape == (6, len(TINY.gates))


@pytest.mark.parametrize("kind", ["conv", "A"])
def test_without_gates_it_is_the_dense_network(kind):
    """The same as with saliencies of 1 and nothing pruned, which is how a training with gate_scale 0 starts."""
    chosen = SHAPES[kind]
    drawn = states.initial(chosen, gate_scale=0)
    net = network(chosen, gate_scale=0).eval()
    np.testing.assert_array_equal(state_of(net)["stage_1.0.mb1.fc2.weight"], drawn["stage_1.0.mb1.fc2.weight"])
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(x, gates=False))
        for one in net.gates:
            one.thre.fill_(2.0)  # everything pruned: only the gated network notices
        assert not torch.allclose(net(x), net(x, gates=False))


def test_option_a_is_every_second_pixel_between_zeros():
    shortcut = network(SHAPES["A"]).blocks[1].downsample
    x = images(2).repeat(1, 2, 1, 1)[:, :4]
    y = shortcut(x)
    assert y.shape == (2, 6, 8, 8)
    assert not y[:, [0, 5]].any()
    torch.testing.assert_close(y[:, 1:5], x[:, :, ::2, ::2])


def test_lower_precision_leaves_gates_in_float32():
    net = calibrated()
    with torch.autocast("cpu", torch.bfloat16):
        details = net.details(images())
    assert details.logits.dtype == torch.bfloat16
    kinds = {one.dtype for row in (details.saliencies, details.factors, details.features) for one in row}
    assert kinds == {torch.float32}
    pi, factor = details.saliencies[0], details.factors[0]
    assert len(torch.unique(pi)) > 0.9 * pi[pi > 0].numel()  # of three digits, many would be equal
    torch.testing.assert_close(factor, torch.where(pi >= net.gates[0].thre, pi, 0.0))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_one_image_gives_no_nan(mode):
    net = network(TINY)
    getattr(net, mode)()
    details = net.details(images(1))
    assert all(torch.isfinite(one).all() for one in (details.logits, *details.saliencies, *details.features))


@pytest.mark.parametrize("gates", [True, False])
def test_loaded_names_and_what_stays(gates):
    source = network(TINY, seed=1)
    target = network(TINY, seed=2)
    before = {name: value.clone() for name, value in state_of(target).items()}
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    load_state(target, state, gates=gates)
    for name, value in state_of(target).items():
        taken = gates or "mb" not in name
        torch.testing.assert_close(value, (state_of(source) if taken else before)[name])


def test_a_state_of_another_network():
    with pytest.raises(StateError, match=r"net\.th: .*--shortcut conv"):
        load_state(network(SHAPES["A"]), network(TINY).state_dict(), "net.th")


@pytest.mark.parametrize("kind", ["conv", "A"])
def test_a_network_with_gates_travels(kind, tmp_path):
    """It exports, and onnxruntime computes the same masks."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from mopruning.ir.onnx_files import write_onnx

    net = calibrated(SHAPES[kind])
    x = images(1)
    write_onnx(to_ir(net, x), Path(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, net(x), rtol=1e-4, atol=1e-4)
