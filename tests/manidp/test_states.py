"""States: names of every publisher, thresholds in files of their own, errors that say what is missing."""

import doctest
import sys

import numpy as np
import pytest

from mopruning.errors import FormatError, StateError
from mopruning.manidp import NOTHING_PRUNED, Structure, states, structure
from mopruning.manidp.structure import CIFAR

TINY = Structure(CIFAR, (1, 1, 1), (4, 6, 8), classes=10, image=16)
module = sys.modules[states.shapes.__module__]


def dense(network: Structure) -> dict[str, np.ndarray]:
    return states.without_gates(states.initial(network))


def public(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a dense state as the public ResNets of CIFAR name it."""
    pairs = (("conv_1_3x3", "conv1"), ("bn_1", "bn1"), ("stage_", "layer"), ("conv_a", "conv1"), ("bn_a", "bn1"))
    pairs += (("conv_b", "conv2"), ("bn_b", "bn2"), ("classifier", "linear"))
    found = {}
    for name, value in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        found[f"module.{name}"] = value
    return found


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_parameters_are_as_many_as_published():
    def count(name: str, *, gates: bool) -> int:
        chosen = states.shapes(structure(name), gates=gates)
        kinds = ("running_mean", "running_var", "thre", "mask_sum")
        return sum(int(np.prod(shape)) for entry, shape in chosen.items() if not entry.endswith(kinds))

    for depth, backbone, gates in ((20, 272282, 62624), (32, 466714, 106080), (56, 855578, 192992)):
        assert count(f"dyresnet{depth}", gates=False) == backbone
        assert count(f"dyresnet{depth}", gates=True) == backbone + gates


def test_imagenet_has_a_normalisation_in_the_shortcut():
    shapes = states.shapes(structure("dyresnet18"))
    assert shapes["conv1_7x7.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (128,)
    assert shapes["layer1.0.mb1.fc1.weight"] == (64, 64)  # below 80 channels half of squeeze_rate
    assert shapes["layer2.0.mb1.fc1.weight"] == (64, 64)


def test_option_a_has_no_shortcut_weights():
    assert not [name for name in states.shapes(structure("dyresnet20", shortcut="A")) if "downsample" in name]


def test_names_of_public_resnets():
    wanted = dense(structure("dyresnet20", shortcut="A"))
    found = states.named(structure("dyresnet20", shortcut="A"), public(wanted))
    assert found.keys() == wanted.keys()
    assert all(found[name] is wanted[name] for name in wanted)


def test_names_of_torchvision():
    names = [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.1.bias",
        "fc.bias",
        "bn1.num_batches_tracked",
    ]
    found = states.named(structure("resnet18"), {f"module.{name}": name for name in names})
    assert list(found) == ["conv1_7x7.weight", *names[1:-1]]


def test_names_of_mindspore():
    names = {"bn_1.gamma": 1, "bn_1.beta": 2, "bn_1.moving_mean": 3, "stage_1.0.bn_a.moving_variance": 4}
    found = states.named(TINY, names)
    assert list(found) == ["bn_1.weight", "bn_1.bias", "bn_1.running_mean", "stage_1.0.bn_a.running_var"]
    assert list(found.values()) == [1, 2, 3, 4]


def test_initial_state_follows_from_the_seed():
    one, again, other = states.initial(TINY, seed=1), states.initial(TINY, seed=1), states.initial(TINY, seed=2)
    assert {name: value.shape for name, value in one.items()} == states.shapes(TINY)
    assert all(value.dtype == np.float32 for value in one.values())
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert (one[name].ndim == 1) == np.array_equal(one[name], other[name])
    assert one["stage_1.0.mb1.thre"] == NOTHING_PRUNED
    assert (one["stage_1.0.mb1.fc2.bias"] == 1).all()
    assert not one["stage_1.0.mb1.mask_sum"].any()


def test_initial_weights_have_the_spread_of_he():
    drawn = states.initial(structure("dyresnet20"))
    assert drawn["stage_3.1.conv_a.weight"].std() == pytest.approx(np.sqrt(2 / (64 * 9)), rel=0.02)
    assert drawn["stage_3.1.mb2.fc1.weight"].std() == pytest.approx(np.sqrt(2 / 64), rel=0.05)


def test_gate_scale_makes_every_saliency_one():
    drawn = states.initial(TINY, gate_scale=0)
    assert not any(value.any() for name, value in drawn.items() if name.endswith("fc2.weight"))
    assert drawn["stage_1.0.mb1.fc1.weight"].any()


def test_a_whole_state_passes_and_sums_may_be_missing():
    state = states.initial(TINY)
    states.check(TINY, state, "file")
    states.check(TINY, {name: value for name, value in state.items() if not name.endswith("mask_sum")}, "file")
    states.check(TINY, dense(TINY), "file", gates=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("bn_1.bias"), r"net\.pth: .*missing: bn_1\.bias$"),
        (lambda state: state.update(extra=np.zeros(1)), r"unexpected: extra$"),
        (lambda state: state.update({"bn_1.bias": np.zeros(5)}), r"'bn_1\.bias' has shape \[5\], expected \[4\]"),
        (lambda state: [state.pop(name) for name in list(state) if "downsample" in name], "--shortcut A"),
        (lambda state: [state.pop(name) for name in list(state) if name.endswith("thre")], r"thres\.npy"),
        (lambda state: [state.pop(name) for name in list(state) if ".mb" in name], "and 20 more.* without gates"),
    ],
)
def test_what_is_wrong_is_named(change, told):
    state = states.initial(TINY)
    change(state)
    with pytest.raises(StateError, match=told):
        states.check(TINY, state, "net.pth")


def test_shortcuts_with_weights_are_unexpected_in_option_a():
    with pytest.raises(StateError, match="--shortcut conv"):
        states.check(structure("dyresnet20", shortcut="A"), states.initial(structure("dyresnet20")), "net.pth")


def test_thresholds_there_and_back(tmp_path):
    values = np.array([0.5, 0.25, 1e-6, 3.0, 0.125, 2.0])
    np.save(tmp_path / "thres.npy", values)
    entries = states.read_thresholds(TINY, tmp_path / "thres.npy")
    assert list(entries) == [f"{gate}.thre" for gate in TINY.gates]
    np.testing.assert_array_equal(states.thresholds(TINY, entries), values.astype(np.float32))


def test_thresholds_of_another_network(tmp_path):
    np.save(tmp_path / "thres.npy", np.zeros(18))
    with pytest.raises(StateError, match=r"expected 6 finite numbers, 2 a block, got float64 \(18,\)"):
        states.read_thresholds(TINY, tmp_path / "thres.npy")
    with pytest.raises(StateError, match="finite"):
        states.threshold_entries(TINY, np.full(6, np.nan))


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_of_thresholds(tmp_path, content):
    (tmp_path / "thres.npy").write_bytes(content)
    with pytest.raises(FormatError, match=r"thres\.npy: expected an array of thresholds"):
        states.read_thresholds(TINY, tmp_path / "thres.npy")


def test_thresholds_as_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "thres.npy", np.array([object], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="expected an array of thresholds"):
        states.read_thresholds(TINY, tmp_path / "thres.npy")


@pytest.mark.parametrize("name", ["dyresnet56", "resnet34"])
def test_description_there_and_back(name):
    assert states.described(states.description(structure(name, squeeze_rate=4))) == structure(name, squeeze_rate=4)


@pytest.mark.parametrize("change", [{"family": "mnist"}, {"image": 0}, {"blocks": 3}])
def test_a_damaged_description(change):
    with pytest.raises(StateError, match="structure of a saved network"):
        states.described(states.description(TINY) | change)
