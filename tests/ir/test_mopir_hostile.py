"""Damaged .mopir files: a FormatError that names tensor and check, or the content; nothing else comes out.

MOPRUNING_LONG_TESTS=1 mutates 10,000 files instead of 500.
"""

import copy
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from mopruning.errors import FormatError
from mopruning.ir import mopir
from tests.ir.mopir_parts import Parts, originals, read, refused

ROOT = Path(__file__).resolve().parents[2]
FILES = 10_000 if os.environ.get("MOPRUNING_LONG_TESTS") == "1" else 500
MARGIN = 64 << 20  # bytes that reading a file of 20 kB may take
LONGEST = 10  # seconds that reading it may take; it takes 0.01


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    return originals(tmp_path_factory.mktemp("originals"))


def test_files_that_are_put_together_again_are_read(raws, tmp_path):
    for raw in raws:
        (tmp_path / "1.mopir").write_bytes(raw)
        (tmp_path / "2.mopir").write_bytes(Parts(raw).build())
        texts, tensors = read(tmp_path / "2.mopir")
        assert tensors == read(tmp_path / "1.mopir")[1]
        assert texts.keys() == read(tmp_path / "1.mopir")[0].keys()


def test_encodings_are_all_there(raws):
    found = Counter(row["encoding"] for raw in raws for row in Parts(raw).rows.values())
    assert min(found[name] for name in ("dense", "bitmask", "gaps", "bank")) >= 1


# ---- damage


def test_no_truncation_goes_unnoticed(raws, tmp_path):
    for raw in raws:
        for length in [*range(64), *range(64, len(raw), 131), len(raw) - 1]:
            refused(tmp_path, raw[:length], "truncated|no .safetensors file")
        refused(tmp_path, raw + b"\0", "its header accounts for")


def test_no_flipped_bit_goes_unnoticed(raws, tmp_path):
    path = tmp_path / "net.mopir"
    choice = random.Random(0)
    for raw in raws:
        for place in choice.sample(range(8 * len(raw)), min(8 * len(raw), 250)):
            damaged = bytearray(raw)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(FormatError):
                read(path)


@pytest.mark.parametrize("length", range(16))
def test_no_length_of_the_header_is_taken_for_a_pickle(length, tmp_path):
    for filling in range(0, 256, 8):
        mopir.save_weights({}, tmp_path / "net.mopir", provenance={"fill": "x" * (filling + 256 * 16 * length)})
        assert mopir.load_weights(tmp_path / "net.mopir") == {}


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickles_and_archives_are_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        refused(tmp_path, pickle.dumps({"w": Payload(marker), "fill": "x" * 999}, protocol), "refused|no .safetensors")
    refused(tmp_path, pickle.dumps([Payload(marker)] * 99, 4), "refused: a pickle or an archive")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Payload(marker)))
    refused(tmp_path, (tmp_path / "archive").read_bytes(), "refused: a pickle or an archive")
    refused(tmp_path, b"", "no .safetensors file")
    refused(tmp_path, b"hello, this is text", "no .safetensors file")
    assert not marker.exists()


# ---- mutations


def mutant(raw, choice):
    """Change a file at random; return it and whether whoever did it kept the checksums right."""
    kind = choice.randrange(5)
    if kind == 0:
        return scribbled(raw, choice), False
    parts = Parts(raw)
    if kind == 1:  # the bytes of a part
        name = choice.choice([name for name in parts.header if name != "__metadata__"])
        parts.data[parts.span(name)] = scribbled(bytes(parts.data[parts.span(name)]), choice, keep_length=True)
        parts.sign()
    else:
        tree = {2: parts.header, 3: parts.rows, 4: parts.graph or parts.rows}[kind]
        for _ in range(choice.randint(1, 3)):
            graft(tree, choice)
    try:
        return parts.build(), True
    except (KeyError, TypeError, AttributeError):  # the metadata itself is gone
        return scribbled(raw, choice), False


def scribbled(raw, choice, keep_length=False):
    """Overwrite, insert, remove or repeat some bytes."""
    damaged = bytearray(raw)
    for _ in range(choice.randint(1, 4)):
        if not damaged:
            break
        start = choice.randrange(len(damaged))
        stop = min(len(damaged), start + choice.choice([1, 1, 2, 8, 300]))
        other = choice.randrange(len(damaged))
        filling = choice.choice(
            [
                choice.randbytes(stop - start),
                choice.choice([b"\0", b"\xff", b"9", b"[", b'"']) * (stop - start),
                bytes(damaged[other : other + stop - start]).ljust(stop - start, b"\0"),
            ]
        )
        if keep_length or choice.random() < 0.6:
            damaged[start:stop] = filling
        elif choice.random() < 0.5:
            damaged[start:start] = filling
        else:
            del damaged[start : choice.choice([stop, len(damaged)])]
    return bytes(damaged)


NODE = ["Relu", ["x"], [["z", "f32", None]], {}]
NUMBERS = [0, -1, 1, 2, 3, 4, 63, 64, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 10**40, 0.5, 1e308]
NAMES = [
    "w",
    "x.values",
    "conv1",
    "conv1.weight",
    "dense",
    "bitmask",
    "gaps",
    "bank",
    "Conv",
    "Relu",
    "LSTM",
    "Constant",
]
TYPES = ["f32", "i64", "s", "F32", "U8", "BF16", "BOOL"]
TEXTS = ["", "\0", "\ud800", "9" * 1000, "N"]
SHAPES = [[], [[]], [0], [1, 2, 3], [2**40], [2**62, 0], ["N"], [None], [1] * 40, json.loads("[" * 200 + "]" * 200)]
OBJECTS = [{}, {"ints": []}, {"floats": ["nan"]}, {"a": {}}, {"tensor": ["f32", [1], "AAAAAA=="]}, NODE]
HOSTILE = [None, True, *NUMBERS, *NAMES, *TYPES, *TEXTS, *SHAPES, *OBJECTS]


def graft(tree, choice):
    """Replace, remove, repeat or exchange something somewhere in a JSON tree."""
    path = [tree]
    while True:
        inner = list(path[-1].values()) if isinstance(path[-1], dict) else path[-1]
        nested = [one for one in inner if isinstance(one, (dict, list)) and one]
        if not nested or choice.random() < 0.25:
            break
        path.append(choice.choice(nested))
    place = path[-1]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys:
        return
    key, other, what = choice.choice(keys), choice.choice(keys), choice.random()
    if what < 0.55:
        place[key] = copy.deepcopy(choice.choice(HOSTILE))
    elif what < 0.7:
        del place[key]
    elif what < 0.85:
        place[key], place[other] = place[other], place[key]
    elif isinstance(place, list):
        place.insert(key, copy.deepcopy(place[other]))
    else:
        place[choice.choice(["x", "conv1", "n", "axis", "recipe", f"{key}.values"])] = copy.deepcopy(place[key])


def fuzz(folder, count, seed):
    """Read mutants with little memory and time to do it; print what came of them. Runs in a process of its own."""
    import resource

    raws = originals(Path(folder))
    path = Path(folder) / "mutant"
    content = []
    for raw in raws:
        path.write_bytes(raw)
        content.append(read(path))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MARGIN, used + MARGIN))
    choice = random.Random(seed)
    found = Counter()
    for number in range(count):
        which = choice.randrange(len(raws))
        raw, signed = mutant(raws[which], choice)
        path.write_bytes(raw)
        signal.alarm(LONGEST)  # ends the process if it is not in time
        try:
            got = read(path)
        except FormatError as error:
            found["refused" if str(error).startswith(str(path)) else f"nameless: {error}"] += 1
        except BaseException:
            print(f"mutant {number} of seed {seed}", file=sys.stderr)
            raise
        else:
            assert signed or got == content[which], f"mutant {number} of seed {seed}: damage went unnoticed"
            found["read"] += 1
        finally:
            signal.alarm(0)
    print(json.dumps(found))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits its memory as Linux does")
@pytest.mark.parametrize("seed", range(2))
def test_mutants_are_refused_or_read_within_their_means(seed, tmp_path):
    code = (
        f"import conftest; from tests.ir.test_mopir_hostile import fuzz; fuzz({str(tmp_path)!r}, {FILES // 2}, {seed})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["refused"] + found["read"] == FILES // 2, found
    assert found["refused"] > FILES // 4
    assert found["read"] > FILES // 200
