"""What a network's zeros are worth: sizes as files have them, products as `cost` counts them, JSON that holds."""

import doctest
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import ml_dtypes
import numpy as np
import pytest

from mopruning import ir, mask
from mopruning.ir import container
from mopruning.ir.passes import ShapeError, cost, report_page, report_tables
from mopruning.ir.passes import report as module
from mopruning.ir.passes.report import ENCODINGS, report, report_weights
from mopruning.runtimes import RUNTIMES
from tests.cli.mixed_network import WEIGHTS, mixed, pruned_by_hand
from tests.cli.networks import arrays, pruned, put
from tests.ir.small_models import Weights, encoder, model, node


@pytest.mark.parametrize("tested", [module, report_page, report_tables])
def test_doctests(tested):
    result = doctest.testmod(tested)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("granularity", "sparsity"), [("unstructured", 0.97), ("unstructured", 0.3), ("bank:64", 0.9375), ("2:4", 0.5)]
)
def test_sizes_are_those_of_a_file(tmp_path, granularity, sparsity):
    net = pruned("mnist_cnn", granularity, sparsity)
    ir.save(net, tmp_path / "net.mopir")
    stored = container.read(tmp_path / "net.mopir")[0]
    found = report(net)
    for row in found.rows:
        held = stored[row.counted.name]
        assert row.smallest == (held.encoding, held.stored), row.counted.name
        assert row.bytes["dense"] == held.nbytes
    assert found.bytes("smallest") == sum(stored[row.counted.name].stored for row in found.rows)
    assert found.bytes("dense") == 4 * found.counted.size
    assert found.bytes("bank") >= found.bytes("smallest")


def test_products_are_those_of_cost():
    net = mixed()
    for name, array in pruned_by_hand(arrays(net), "2:4").items():
        put(net, name, array)
    found, costs = report(net), cost(net)
    assert [row.counted.name for row in found.rows] == list(WEIGHTS)
    assert sum(row.macs for row in found.rows) == costs.macs == found.macs
    assert sum(row.effective_macs for row in found.rows) == costs.effective_macs == found.effective_macs
    spent = {row.node: row.macs for row in costs.rows}
    macs = {row.counted.name: row.macs for row in found.rows}
    assert macs["shared.weight"] == spent["first"] + spent["second"]
    assert macs["turned.weight"] == spent["y"]
    assert found.parameters == costs.parameters
    assert found.nonzeros == costs.nonzeros
    reasons = {row.counted.name: row.reasons for row in found.rows}
    assert reasons["up.weight"]["tensorrt"][0] == "transposed convolution, not convolution or dense"
    assert reasons["matmul.weight"]["cusparselt"][-1].startswith("float32")


def test_a_recurrent_layer_shares_its_products_by_weight():
    w = Weights(seed=1)
    nodes = [node("LSTM", "lstm", f"x {w.make('w', 1, 32, 12)} {w.make('r', 1, 32, 8)}", "_ y", hidden_size=8)]
    found = report(model({"x": [5, 2, 12]}, nodes, ["y"], w))
    assert {row.counted.name: row.macs for row in found.rows} == {"w": 5 * 2 * 32 * 12, "r": 5 * 2 * 32 * 8}
    assert {row.kind for row in found.rows} == {"recurrent"}


def test_products_without_a_weight_count_in_the_total_only():
    net = encoder(hidden=16)
    found = report(net, shapes={str(net.graph.inputs[0].name): (1, 6)})
    assert found.macs == found.cost.macs > sum(row.macs for row in found.rows) > 0


def test_sizes_that_are_left_open_leave_products_unknown():
    net = model({"x": ["N", 4, "H", "W"]}, [node("Conv", "y", "x w")], ["y"], {"w": np.ones((4, 4, 3, 3), np.float32)})
    found = report(net)
    assert found.macs is found.rows[0].macs is None
    assert "'x'" in found.without_cost
    assert "MACs" not in report_tables.layers(found).head
    assert report(net, image=8).macs == 4 * 4 * 9 * 36
    with pytest.raises(ShapeError):
        report(net, shapes={"nothing": (1, 4, 8, 8)})


def test_groups_are_seen():
    weights = {"w": np.zeros((8, 1, 1, 1), np.float32)}
    net = model({"x": [1, 8, 4, 4]}, [node("Conv", "y", "x w", group=8)], ["y"], weights)
    assert report(net).rows[0].reasons["xnnpack"] == ("8 groups, not one",)


def test_a_network_of_1x1_convolutions_is_told_from_others():
    nodes = [node("Conv", "y", "x w"), node("Conv", "z", "y v", group=1)]
    weights = {"w": np.zeros((8, 3, 3, 3), np.float32), "v": np.zeros((8, 8, 1, 1), np.float32)}
    for found in (report(model({"x": [1, 3, 4, 4]}, nodes, ["z"], weights)), report_weights(weights)):
        assert [row.reasons["xnnpack"] for row in found.rows] == [("3x3 convolution, not 1x1",), ()]
    (row,) = (row for row in report(pruned("resnet8_cifar")).rows if row.counted.name == "layer2.0.downsample.weight")
    assert row.reasons["xnnpack"] == ("the network has a 3x3 convolution of 16 inputs",)


def test_weights_alone_of_every_type(torch):
    values = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    values = np.where(mask(np.abs(values), "unstructured", 0.9), values, np.float32(0))
    narrow = torch.from_numpy(values).to(torch.bfloat16)
    found = report_weights(
        {
            "numpy": values.astype(ml_dtypes.bfloat16),
            "torch": narrow,
            "wide": values.astype(np.float64),
            "cube": values.reshape(16, 8, 8),
            "vector": np.zeros(7),
        }
    )
    rows = {row.counted.name: row for row in found.rows}
    assert list(rows) == ["numpy", "torch", "wide", "cube"]
    assert rows["torch"].dtype == rows["numpy"].dtype == "bfloat16"
    assert rows["torch"].bytes == rows["numpy"].bytes
    kept = np.count_nonzero(values)
    assert {name: row.bytes["bitmask"] for name, row in rows.items()} == {
        "numpy": 128 + 2 * kept,
        "torch": 128 + 2 * kept,
        "wide": 128 + 8 * kept,
        "cube": 128 + 4 * kept,
    }
    assert (rows["wide"].kind, rows["cube"].kind) == ("dense", "convolution")
    assert found.parameters == 4 * values.size + 7
    assert found.macs is None


KEYS = (
    *("name", "node", "operator", "kind", "shape", "dtype", "size", "zeros", "sparsity", "patterns", "conformity"),
    *("bytes", "smallest", "macs", "effective_macs", "runtimes"),
)


def test_plain_data_keeps_its_keys_and_holds_no_nan():
    odd = np.full((4, 8), np.nan, np.float32)
    odd[0] = np.inf
    odd[1] = 0.0
    found = report_weights({"odd": odd, "none": np.zeros((0, 8)), "zero": np.zeros((8, 8))})
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content.keys() == {"schema", "inputs", "without_macs", "total", "layers", "runtimes", "runtimes_checked"}
    assert content["schema"] == 1
    assert content["inputs"] is None
    for layer in content["layers"]:
        assert tuple(layer) == KEYS
        assert layer["runtimes"].keys() == {runtime.key for runtime in RUNTIMES}
        assert all(one["gains"] == (not one["reasons"]) for one in layer["runtimes"].values())
        assert layer["bytes"].keys() == set(ENCODINGS)
    total = content["total"]
    assert total["sparsity"] == (8 + 64) / (32 + 64)
    assert total["bytes"].keys() == {*ENCODINGS, "smallest"}
    assert {one["key"]: one["layers"] for one in content["runtimes"]}["shrink"] == 3
    assert [layer["sparsity"] for layer in content["layers"]] == [0.25, 0.0, 1.0]
    empty = report_weights({})
    assert empty.to_dict()["total"]["bytes"]["smallest"] == 0
    assert str(report_tables.layers(empty)).endswith("0")


class Page(HTMLParser):
    """Checks that every element is closed in its place, and keeps what it has seen."""

    EMPTY = ("meta", "link")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.addresses, self.texts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("whole", [True, False], ids=["network", "weights"])
def test_the_page_is_whole_and_needs_nothing(whole):
    hostile = "</td><img src=x onerror=alert(1)>\x00&"
    if whole:
        made, drawings = report_page.page(report(pruned("resnet8_cifar", "2:4")), hostile, 12), 3
    else:
        made, drawings = report_page.page(report_weights({hostile: np.eye(4)}), "net.npz", 12), 2
    read = Page()
    read.feed(made)
    read.close()
    assert read.open == []
    assert "img" not in read.seen
    assert any("</td><img src=x onerror=alert(1)>" in text for text in read.texts)
    assert all(address == "data:," or address.startswith("https://") for address in read.addresses)
    assert not re.search(r"url\(|@import", made)
    drawn = [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", made)]
    assert len(drawn) == drawings
    for svg in drawn:
        widths = [float(rect.get("width")) for rect in svg.iter("{http://www.w3.org/2000/svg}rect")]
        assert widths
        assert all(math.isfinite(width) for width in widths)
    assert ("Not known: weights alone" in made) != whole
