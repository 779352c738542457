"""Forged .mopir files, every checksum right: refused with a FormatError that names the tensor and the check."""

import json

import numpy as np
import pytest

from tests.ir.mopir_parts import Parts, originals, refused


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    return originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def parts(raws):
    """The network."""
    return Parts(raws[1])


def at(container, *keys, value):
    for key in keys[:-1]:
        container = container[key]
    container[keys[-1]] = value


ROWS = {
    "oversized shape": (("conv2.weight", "shape"), [2**40, 16, 3, 3], "bytes of gaps and .* values do not make"),
    "shape beyond numbers": (("conv2.weight", "shape"), [10**30], "larger than any array"),
    "shape with a million axes": (("conv2.weight", "shape"), [10**18] * 10**5, "at most 32, got 100000 axes"),
    "shape of another size": (("conv3.weight", "shape"), [8, 24, 1, 1], "do not make 192 numbers"),
    "same size, other shape": (("conv1.weight", "shape"), [64, 16, 1, 1], "has no groups of 64"),
    "dense, other shape": (("bn1.weight", "shape"), [4, 4], "its part 'bn1.weight' is float32"),
    "negative shape": (("conv1.weight", "shape"), [-1], "must be whole numbers"),
    "shape of text": (("conv1.weight", "shape"), "64", "must be a list"),
    "other dtype": (("conv1.weight", "dtype"), "F16", "its part 'conv1.weight.values' is float32"),
    "unknown dtype": (("conv1.weight", "dtype"), "F31", "unknown dtype 'F31'"),
    "no dtype": (("conv1.weight", "dtype"), {}, "unknown dtype {}"),
    "unknown encoding": (("conv1.weight", "encoding"), "zip", "unknown encoding 'zip'"),
    "no encoding": (("conv1.weight", "encoding"), ["bank"], "unknown encoding"),
    "other encoding": (("conv1.weight", "encoding"), "bitmask", "has parts|is missing"),
    "n too large": (("conv1.weight", "n"), 65, "no bank encoding of 65 of 64"),
    "other n": (("conv1.weight", "n"), 5, "do not make 1024 numbers"),
    "n of another type": (("conv1.weight", "n"), 4.0, "parameters must be whole numbers"),
    "m beyond the table": (("conv1.weight", "m"), 1024, "no bank encoding of 4 of 1024"),
    "no such axis": (("conv1.weight", "axis"), 7, "along axis 7"),
    "other axis": (("conv1.weight", "axis"), 0, "has no groups of 64"),
    "wrong checksum": (("conv1.weight", "crc32"), [0, 0], "damaged: the CRC32 of its values"),
    "too few checksums": (("conv1.weight", "crc32"), [1], "expected 2 crc32"),
    "checksum of text": (("conv1.weight", "crc32"), ["0", "0"], "expected 2 crc32"),
    "unknown key": (("conv1.weight", "code"), "import os", "expected crc32, dtype, encoding, shape"),
    "no row": (("conv1.weight",), None, "expected crc32, dtype, encoding, shape"),
}


@pytest.mark.parametrize("case", ROWS)
def test_hostile_rows_are_refused(case, parts, tmp_path):
    keys, value, reason = ROWS[case]
    parts.sign()
    at(parts.rows, *keys, value=value)
    refused(tmp_path, parts.build(), rf"tensor '{keys[0]}'.*({reason})")


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("format", "pt", r"no \.mopir file: metadata 'format' is 'pt'"),
        ("format_version", "2", "format_version is '2', this program reads '1': update mopruning"),
        ("odd", "thing", "unknown key 'odd'"),
        ("recipe", "[1", "recipe is no JSON"),
        ("recipe", "[1]", "recipe must be a JSON object, got list"),
        ("provenance", '{"a": NaN}', "provenance is no JSON: NaN"),
        ("provenance", "[" * 100_000, "provenance is no JSON"),
    ],
)
def test_hostile_metadata_is_refused(key, text, reason, parts, tmp_path):
    parts.metadata[key] = text
    refused(tmp_path, parts.build(), reason)


def test_metadata_without_its_checksum_is_refused(parts, tmp_path):
    parts.graph["name"] = "other"
    refused(tmp_path, parts.build(sign=False), "the CRC32 of the metadata does not match")


def test_tensors_text_is_no_table(parts, tmp_path):
    for rows, reason in ((3, "must be an object, got int"), ([], "must be an object, got list")):
        parts.rows = rows
        refused(tmp_path, parts.build(), reason)


def test_tensors_must_be_described_and_there(parts, tmp_path):
    row = parts.rows.pop("bn1.bias")
    refused(tmp_path, parts.build(), "tensor 'bn1.bias' belongs to none that the metadata describes")
    parts.rows |= {"bn1.bias": row, "ghost": row}
    refused(tmp_path, parts.build(), "tensor 'ghost': its part 'ghost' is missing")


def test_plain_safetensors_are_no_mopir_file(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3)}, tmp_path / "plain")
    refused(tmp_path, (tmp_path / "plain").read_bytes(), "metadata 'format' is None")


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        ("conv1.weight.banks", lambda size: b"\xff" * size, "a rank stands for no 4 of 64 positions"),
        ("conv2.weight.gaps", lambda size: b"\xff" * size, "its gaps lead to 0 values"),
        ("conv2.weight.gaps", lambda size: b"\xfe" * size, "lead past the end|lead to more"),
        ("conv2.weight.gaps", bytes, "lead to more than its"),
        ("conv3.weight.bitmask", bytes, "marks 0 numbers"),
        ("conv3.weight.bitmask", lambda size: b"\xff" * size, "marks more than its"),
    ],
)
def test_hostile_indices_are_refused(part, content, reason, parts, tmp_path):
    span = parts.span(part)
    parts.put(part, content(span.stop - span.start))
    refused(tmp_path, parts.build(), rf"tensor '{part.rpartition('.')[0]}': .*({reason})")


def test_bools_must_be_bools(raws, tmp_path):
    parts = Parts(raws[2])
    span = parts.span("marks.values")
    parts.put("marks.values", b"\x02" * (span.stop - span.start))
    refused(tmp_path, parts.build(), "tensor 'marks': a bool must be 0 or 1")


NODE = ["Relu", ["x"], [["z", "f32", None]], {}]
DEEP = json.loads("[" * 500 + "]" * 500)
GRAPHS = {
    "no object": ((), [], "expected an object"),
    "unknown key": (("functions",), [], "expected an object"),
    "version of text": (("opset",), "20", "opset: expected a version"),
    "version beyond sense": (("ir_version",), 10**9, "ir_version: expected a version"),
    "other opset": (("opset",), 21, "expected opset 20, got 21"),
    "name of a number": (("name",), 3, "name: expected text"),
    "metadata of numbers": (("metadata",), {"a": 1}, "metadata: expected a list of texts"),
    "producer alone": (("producer",), ["a"], "producer: expected name and version"),
    "input without shape": (("inputs", 0), ["x"], "expected name, type and shape"),
    "input twice": (("inputs",), [["x", "f32", [1]]] * 2, "each given once, got 'x'"),
    "input without a name": (("inputs", 0, 0), "", "each given once, got ''"),
    "input of no type": (("inputs", 0, 1), "f33", "expected a type"),
    "input of a wrong type": (("inputs", 0, 1), ["f32"], "expected a type"),
    "negative size": (("inputs", 0, 2), [-1], "expected a shape"),
    "size beyond 64 bits": (("inputs", 0, 2), [2**63], "expected a shape"),
    "size that explodes": (("inputs", 0, 2), ["9**9**9**9"], "names of open sizes"),
    "size that shifts": (("inputs", 0, 2), ["9<<9<<9"], "names of open sizes"),
    "size of code": (("inputs", 0, 2), ["__import__('os')"], "names of open sizes"),
    "many axes": (("inputs", 0, 2), [1] * 33, "expected a shape"),
    "output of nothing": (("outputs",), ["ghost"], "outputs: expected values that are made"),
    "output of a number": (("outputs",), [3], "outputs: expected a list of texts"),
    "no outputs": (("outputs",), [], "has no outputs"),
    "node of text": (("nodes", 0), "Conv", "node 0: expected operator"),
    "operator of a path": (("nodes", 0, 0), "../Conv", "node 0: expected an operator"),
    "operator unknown": (("nodes", 0, 0), "Einsum", "not in the profile"),
    "operator with a graph": (("nodes", 0, 0), "If", "not in the profile"),
    "input of the node is nothing": (("nodes", 0, 1), ["ghost"], r"node 0 \(Conv\), inputs: expected values made"),
    "cycle": (("nodes", 0, 1), ["flatten"], "expected values made before, got"),
    "output twice": (("nodes", 1, 2), [["conv1", "f32", None]], "names given once, got 'conv1'"),
    "output over a weight": (("nodes", 1, 2), [["conv1.weight", "f32", None]], "names given once"),
    "node without outputs": (("nodes", 0, 2), [], "expected a name, got None|expected values"),
    "attributes as a list": (("nodes", 0, 3), [], "attributes: expected an object"),
    "attribute of null": (("nodes", 0, 3, "group"), None, "attribute 'group': expected a number or text"),
    "attribute of truth": (("nodes", 0, 3, "group"), True, "expected a number or text"),
    "attribute of mixed things": (("nodes", 0, 3, "pads"), [1, "a"], "expected a list of numbers or of texts"),
    "attribute of lists": (("nodes", 0, 3, "pads"), [[1]], "expected a list of numbers or of texts"),
    "attribute nested deeply": (("nodes", 0, 3, "pads"), DEEP, "expected a list of numbers or of texts"),
    "attribute beyond 64 bits": (("nodes", 0, 3, "group"), 2**63, "whole numbers of 64 bits"),
    "attribute of a graph": (("nodes", 0, 3, "body"), {"graph": {}}, "an empty list of ints or strings"),
    "attribute of two types": (("nodes", 0, 3, "body"), {"ints": [], "floats": []}, "expected one type"),
    "floats of ints": (("nodes", 0, 3, "body"), {"floats": [1]}, "numbers with a point"),
    "tensor of nothing": (("nodes", 0, 3, "value"), {"tensor": []}, "expected type, shape and base64"),
    "tensor too large": (("nodes", 0, 3, "value"), {"tensor": ["f32", [2**40], ""]}, "bytes that fill it"),
    "tensor of half bytes": (("nodes", 0, 3, "value"), {"tensor": ["i4", [2], "AA=="]}, "a type of whole bytes"),
    "tensor of texts": (("nodes", 0, 3, "value"), {"tensor": ["s", [0], ""]}, "a type of whole bytes"),
    "tensor of no base64": (("nodes", 0, 3, "value"), {"tensor": ["f32", [1], "????"]}, "bytes that fill it"),
    "tensor, empty but endless": (("nodes", 0, 3, "value"), {"tensor": ["f32", [0, 2**62], ""]}, "bytes that fill it"),
    "attribute unknown": (("nodes", 0, 3, "code"), "import os", "its attribute 'code' is not in the profile"),
    "name of the node is a number": (("nodes", 0), [*NODE, 3], "expected a name, got 3"),
    "node too long": (("nodes", 0), [*NODE, "a", "b"], "node 0: expected operator"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_hostile_graphs_are_refused(case, parts, tmp_path):
    keys, value, reason = GRAPHS[case]
    if keys:
        at(parts.graph, *keys, value=value)
    else:
        parts.graph = value
    refused(tmp_path, parts.build(), rf"(?s)net\.mopir: graph: .*({reason})")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no JSON"),
        ("{" * 100_000, "is no JSON"),
        ('{"name": "a", "name": "b"}', "a name is given twice"),
        ('{"name": 1e999}', "1e999 is no finite number"),
        ('{"opset": ' + "9" * 5000 + "}", "is no JSON"),
    ],
)
def test_graphs_of_hostile_json_are_refused(text, reason, parts, tmp_path):
    parts.graph, parts.metadata["graph"] = None, text
    refused(tmp_path, parts.build(), reason)
