"""`mopruning report`: every format that `inspect` opens, as tables, JSON and a page."""

import json

import numpy as np
import onnx_ir
import pytest

from mopruning import ir
from mopruning.ir.onnx_files import write_onnx
from mopruning.ir.passes.report import report
from mopruning.model_files import write_model
from tests.browser import Browser, executable
from tests.cli.networks import pruned


def named(rows, name):
    return next(row for row in rows if row["name"] == name)


@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_json_is_the_report_in_every_format(run, tmp_path, ending):
    net = pruned("mnist_cnn", "bank:64", 0.9375)
    file = tmp_path / f"net{ending}"
    write_model(net, file)
    code, out, err = run("report", file, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["file"] == str(file)
    assert content["bytes"] > 100_000
    expected = report(net).to_dict()
    assert content["total"] == expected["total"]
    for one, other in zip(content["layers"], expected["layers"], strict=True):
        assert one["bytes"] == other["bytes"]
        assert one["runtimes"] == other["runtimes"]
        assert one["macs"] == other["macs"]
    assert content["runtimes"] == expected["runtimes"]


def test_what_shrink_would_leave_is_told(run, tmp_path):
    dense, half = tmp_path / "dense.mopir", tmp_path / "half.mopir"
    write_model(ir.zoo.build("resnet8_cifar"), dense)
    assert "shrink:" not in run("report", dense)[1]
    assert json.loads(run("report", dense, "--json")[1])["total"]["shrunk"] is None
    run("prune", dense, half, "--granularity", "filter:group", "--sparsity", "0.5")
    assert "shrink: 19,858 parameters (0.2551), 3,236,160 MACs (0.2589) are left" in run("report", half)[1]
    shrunk = json.loads(run("report", half, "--json")[1])["total"]["shrunk"]
    assert shrunk == {"parameters": 19_858, "macs": 3_236_160}


def test_zero_filters_that_stay_are_told(run, tmp_path):
    net = ir.zoo.build("lenet5")
    last = [value for value in net.graph.initializers.values() if value.name.endswith("weight")][-1]
    weight = last.const_value.numpy().copy()
    weight[3] = 0.0
    last.const_value = onnx_ir.Tensor(weight, name=last.name)
    write_model(net, tmp_path / "net.mopir")
    assert "shrink: nothing can be cut out" in run("report", tmp_path / "net.mopir")[1]


def test_weights_alone_say_that_they_have_no_products(run, source):
    code, out, err = run("report", source)
    assert (code, err) == (0, "")
    assert "MACs: not known: weights alone say nothing of multiply-accumulates" in out
    assert "effective" not in out
    row = next(line for line in out.splitlines() if line.startswith("odd.weight") and "inputs" in line)
    assert "inputs 127, no multiple of 16" in row
    content = json.loads(run("report", source, "--json")[1])
    assert content["total"]["macs"] is None
    assert named(content["layers"], "odd.weight")["kind"] == "convolution"
    assert content["total"]["layers"] == 3


def test_tables_are_plain_text_unless_on_a_terminal(run, tmp_path, monkeypatch):
    write_onnx(pruned("lenet5", "2:4"), tmp_path / "net.onnx")
    plain = run("report", tmp_path / "net.onnx")[1]
    assert "│" not in plain
    lines = plain.splitlines()
    assert lines[0] == "layers, bytes in each encoding:"
    assert " ".join(lines[1].split()) == "layer shape sparsity patterns MACs effective dense bitmask gaps bank"
    assert any(line.startswith("fc1.weight ") and " 2:4, 4:8, 8:16, 8 of 16 " in line for line in lines)
    assert any(line.startswith("onnxruntime ") and "makes every weight dense" in line for line in lines)
    assert lines[-1].startswith("MACs: 416,520, effective ")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    rich = run("report", tmp_path / "net.onnx")[1]
    assert "│" in rich


def test_sizes_of_inputs(run, fails, tmp_path, source):
    net = pruned("resnet8_cifar")
    net.graph.inputs[0].shape = onnx_ir.Shape(["N", 3, "H", "W"])
    write_onnx(net, tmp_path / "net.onnx")
    out = run("report", tmp_path / "net.onnx")[1]
    assert "MACs: not known: the shape of 'input' is open" in out
    assert "--input-shape" in out
    assert "image=" not in out
    out = run("report", tmp_path / "net.onnx", "--input-shape", "1,3,32,32")[1]
    assert "MACs: 12,501,632, effective" in out
    assert "takes input as N,3,H,W" in fails("report", tmp_path / "net.onnx", "--input-shape", "1,1,32,32")
    assert "holds weights alone" in fails("report", source, "--input-shape", "1,3,32,32")


def test_errors(fails, tmp_path):
    assert "unknown suffix '.txt'; a page is written to .html" in fails(
        "report", tmp_path / "net.mopir", "--html", tmp_path / "a.txt"
    )
    assert "No such file" in fails("report", tmp_path / "net.mopir")
    ir.save(pruned("lenet5"), tmp_path / "net.mopir")
    content = bytearray((tmp_path / "net.mopir").read_bytes())
    content[-1] ^= 1
    (tmp_path / "net.mopir").write_bytes(content)
    assert "damaged" in fails("report", tmp_path / "net.mopir", "--html", tmp_path / "a.html")
    ir.save(pruned("lenet5"), tmp_path / "net.mopir")
    assert "there is no such folder" in fails("report", tmp_path / "net.mopir", "--html", tmp_path / "no" / "a.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.mopir"]


def test_the_page_in_a_browser(run, tmp_path):
    path = executable()
    if path is None:
        pytest.skip("needs a Chromium: python tests/browser.py brings one, MOPRUNING_TEST_BROWSER names one")
    net = pruned("mnist_cnn", "bank:64", 0.9375)
    write_model(net, tmp_path / "net.onnx")
    code, out, _ = run("report", tmp_path / "net.onnx", "--html", tmp_path / "net.html")
    assert code == 0
    assert f"net.html: {(tmp_path / 'net.html').stat().st_size:,} bytes" in out.splitlines()[-1]
    browser = Browser(path)
    try:
        browser.open(tmp_path / "net.html")
        assert browser.requests() == [(tmp_path / "net.html").as_uri()]
        assert browser.complaints() == []
        assert browser.value("document.querySelector('h1').textContent") == "net.onnx: what its zeros are worth"
        rects = "[...document.querySelectorAll('svg')[{}].querySelectorAll('g rect')]"
        bars = f"{rects}.map(rect => rect.getBoundingClientRect().width)"
        found = report(net)
        widths = np.array(browser.value(bars.format(0)))
        np.testing.assert_allclose(widths / widths.max() * 0.9375, [r.sparsity for r in found.counted.rows], atol=0.01)
        macs = np.array(browser.value(bars.format(2))).reshape(-1, 2)
        expected = np.array([[row.macs, row.effective_macs] for row in found.rows])
        np.testing.assert_allclose(macs / macs.max(), expected / expected.max(), atol=0.01)
        cells = browser.value("[...document.querySelectorAll('td.yes')].map(c => c.parentNode.cells[0].textContent)")
        assert cells == [row.counted.name for row in found.rows for why in row.reasons.values() if not why]
        assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        browser.open(tmp_path / "net.html", dark=True)
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)"
    finally:
        browser.close()
