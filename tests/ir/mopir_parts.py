"""What the tests of damaged .mopir files share: files to begin with, and how to take one apart and put it together."""

import json
import zlib

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import mopir
from tests.ir.small_models import Weights, encoder, model, node

# ---- files to begin with


def network():
    """A network with a weight in each encoding."""
    rng, weights = np.random.default_rng(0), Weights()
    bank = rng.standard_normal((16, 64, 1, 1)).astype(np.float32)
    bank[rng.random(bank.shape).argsort(axis=1) >= 4] = 0
    weights["conv1.weight"] = bank
    weights["conv2.weight"] = np.where(rng.random((32, 16, 3, 3)) < 0.04, rng.standard_normal((32, 16, 3, 3)), 0)
    weights["conv3.weight"] = np.where(rng.random((8, 32, 1, 1)) < 0.6, rng.standard_normal((8, 32, 1, 1)), 0)
    weights |= {name: weights[name].astype(np.float32) for name in ("conv2.weight", "conv3.weight")}
    layers = [
        node("Conv", "conv1", "x conv1.weight", kernel_shape=[1, 1]),
        node("BatchNormalization", "bn1", f"conv1 {weights.norm('bn1', 16)}", epsilon=1e-5),
        node("Conv", "conv2", "bn1 conv2.weight", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "relu", "conv2"),
        node("Conv", "conv3", "relu conv3.weight", kernel_shape=[1, 1]),
        node("Flatten", "flatten", "conv3", axis=1),
    ]
    return model({"x": ["N", 64, 4, 4]}, layers, ["flatten"], weights)


def some_weights():
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random((32, 64)) < 0.1, rng.standard_normal((32, 64)), 0)
    one_in_four = np.zeros((16, 64), np.float16)
    one_in_four[:, ::4] = 1.5
    return {
        "double": sparse,
        "eight": (sparse * 99).astype(np.int8),
        "marks": sparse != 0,
        "quarter": one_in_four,
        "steps": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "zeros": np.zeros((40, 40), np.float32),
    }


def originals(folder):
    """Write the files to begin with and return their bytes."""
    mopir.save(network(), folder / "network.mopir", recipe={"sparsity": 0.9}, provenance={"from": "here"})
    mopir.save(encoder(8, 2), folder / "encoder.mopir")
    mopir.save_weights(some_weights(), folder / "weights.mopir")
    return [path.read_bytes() for path in sorted(folder.glob("*.mopir"))]


# ---- taking files apart and putting them together again, as the format is documented


class Parts:
    """A file with its JSON opened up: header, rows of tensors, graph, and the bytes after the header."""

    def __init__(self, raw):
        length = int.from_bytes(raw[:8], "little")
        self.header = json.loads(raw[8 : 8 + length])
        self.data = bytearray(raw[8 + length :])
        self.metadata = self.header["__metadata__"]
        self.rows = json.loads(self.metadata["tensors"])
        self.graph = json.loads(self.metadata["graph"]) if "graph" in self.metadata else None

    def span(self, name):
        return slice(*self.header[name]["data_offsets"])

    def put(self, name, content):
        """Change a part's bytes, of which there must be as many, and the checksum in its row."""
        self.data[self.span(name)] = content
        self.sign()

    def sign(self):
        """Make every checksum of a tensor right, as far as its row still has one."""
        for name, row in self.rows.items():
            index = {"bitmask": "bitmask", "gaps": "gaps", "bank": "banks"}.get(row["encoding"])
            parts = [name] if index is None else [f"{name}.values", f"{name}.{index}"]
            row["crc32"] = [zlib.crc32(self.data[self.span(part)]) for part in parts]

    def build(self, sign=True):
        """Put the file together; `sign` makes the checksum of the metadata right."""
        if self.graph is not None:
            self.metadata["graph"] = json.dumps(self.graph)
        self.metadata["tensors"] = json.dumps(self.rows)
        if sign:
            texts = sorted((key, text) for key, text in self.metadata.items() if key != "crc32")
            joined = "".join(f"{key}\0{text}\0" for key, text in texts)
            self.metadata["crc32"] = f"{zlib.crc32(joined.encode('utf-8', 'surrogatepass')):08x}"
        text = json.dumps(self.header).encode()
        return len(text).to_bytes(8, "little") + text + bytes(self.data)


def read(path):
    """Everything in a file: the texts and the tensors' bytes."""
    opened = mopir.open_weights(path)
    if "graph" in opened.texts:
        mopir.load(path)
    tensors = {
        name: (array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in opened.weights().items()
    }
    return opened.texts, tensors


def refused(tmp_path, raw, reason):
    path = tmp_path / "net.mopir"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
