"""How small, how fast and how lean are .mopir files? ResNet-50, pruned, against safetensors with the dense weights.

`python benchmarks/ir_files.py` prints the tables and writes docs/benchmarks/ir_files.md, its chart, and the figures as
JSON to build/benchmarks. `--quick` takes two rounds and a small file to convert and writes nothing; `--check` exits 1
where a target is missed; `--folder` says where the large file to convert may lie.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from page import ROOT, Table, chart, facts_table, verdict, write
from safetensors.numpy import save_file
from timing import Bystanders, Side, aside, command_line, interleaved, machine, tell

from mopruning import BankBalanced, mask
from mopruning.granularity import Granularity
from mopruning.ir import container, mopir, zoo
from mopruning.ir.lazy import lazy
from mopruning.ir.weight_files import read_lazily, write_lazily

MB = 1e6
STEM = "conv1.weight"  # 3 input channels, of which there are no banks of 64


@dataclass(frozen=True)
class Network:
    """One way to prune ResNet-50.

    Args:
        name: What it is called here.
        granularity: Which weights go.
        sparsity: Their share in each weight that is pruned.
        skip: A weight left dense.
        largest: Target for the file, in bytes.
    """

    name: str
    granularity: str | Granularity
    sparsity: float
    skip: str
    largest: float

    def build(self) -> onnx_ir.Model:
        model = zoo.build("resnet50")
        rng = np.random.default_rng(0)
        for name, value in model.graph.initializers.items():
            weight = value.const_value.numpy()  # type: ignore[union-attr]
            if weight.ndim < 2:  # as after training, when none of them is 0 or 1 any more
                weight = rng.standard_normal(weight.shape, dtype=np.float32)
            elif name != self.skip:
                weight = np.where(mask(np.abs(weight), self.granularity, self.sparsity), weight, 0)
            value.const_value = onnx_ir.Tensor(weight, name=name)
        return model


NETWORKS = (
    Network("90% unstructured", "unstructured", 0.9, "", 13.5e6),
    Network("bank-balanced 64, 93.75%, all but the stem", BankBalanced(bank=64), 0.9375, STEM, 8.0e6),
)


def weights_of(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]


# ---- sizes


@dataclass(frozen=True)
class Size:
    """What a file takes, in bytes."""

    network: str
    dense: int
    file: int
    header: int
    encodings: Mapping[str, int]
    target: float

    @property
    def met(self) -> bool:
        return self.file <= self.target

    def row(self) -> list[str]:
        numbers = [f"{size / MB:.3f}" for size in (self.dense, self.file, self.header)]
        found = ", ".join(f"{count} {name}" for name, count in sorted(self.encodings.items()))
        return [self.network, *numbers, f"{self.target / MB:g}", "yes" if self.met else "**no**", found]


def size(network: Network, path: Path, dense: Path) -> Size:
    stored, _ = container.read(path)
    with path.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
    encodings = Counter(one.encoding for one in stored.values())
    return Size(network.name, dense.stat().st_size, path.stat().st_size, header, encodings, network.largest)


# ---- speed


@dataclass(frozen=True)
class Speed:
    """One line of the table of times, in seconds."""

    what: str
    ours: float
    theirs: float
    target: float | None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio <= self.target

    def row(self) -> list[str]:
        verdict = ["", ""] if self.target is None else [f"{self.target:g}", "yes" if self.met else "**no**"]
        return [self.what, f"{self.ours * 1e3:.1f}", f"{self.theirs * 1e3:.1f}", f"{self.ratio:.2f}", *verdict]


def speed(network: Network, model: onnx_ir.Model, folder: Path, repeats: int, small: Path) -> list[Speed]:
    path, dense = folder / "net.mopir", folder / "net.safetensors"
    weights = weights_of(model)
    best = interleaved(
        {"save": Side(lambda: mopir.save(model, path)), "save_file": Side(lambda: save_file(weights, dense))}, repeats
    )
    jobs = {"load": path, "load_weights": path, "open": path, "load_file": dense}
    best |= dict.fromkeys(jobs, float("inf"))
    for _ in range(repeats):
        for job, file in jobs.items():
            best[job] = min(best[job], float(run(LOAD, job, small, file)))
    return [
        Speed(f"{network.name}: save", best["save"], best["save_file"], 3.0),
        Speed(f"{network.name}: load, every weight decoded", best["load"], best["load_file"], 1.5),
        Speed("- weights alone, decoded", best["load_weights"], best["load_file"], None),
        Speed("- the graph alone, weights left in the file", best["open"], best["load_file"], None),
    ]


# Loading is timed in a process of its own, once, as a program loads a network: repeated in one process it depends on
# whether the C library kept the memory of the last time, and for either side that is chance.
LOAD = """
import sys
import time
import conftest
from safetensors.numpy import load_file, save_file
from mopruning.ir import mopir

def load(path):
    model = mopir.load(path)
    return model, [value.const_value.numpy() for value in model.graph.initializers.values()]

job, small, path = sys.argv[1:]
work = {"load": load, "load_weights": mopir.load_weights, "open": mopir.load, "load_file": load_file}[job]
if job == "load_file":
    save_file(mopir.load_weights(small), small + ".safetensors")
work(small + (".safetensors" if job == "load_file" else ""))  # what is imported is not counted
start = time.perf_counter()
result = work(path)
print(time.perf_counter() - start)
"""


def run(code: str, *arguments: object) -> str:
    """Run code in a process of its own and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


# ---- memory, each measured in a process of its own

MEASURE = """
import sys
from pathlib import Path
import conftest
import numpy as np
from mopruning.cli.convert_weights import convert_weights
from mopruning.ir import mopir
from mopruning.ir.weight_files import write_weights

def kilobytes(what):
    return int(Path("/proc/self/status").read_text().partition(what + ":")[2].split()[0])

job, small, *paths = sys.argv[1:]
mopir.save(mopir.load(small), small + ".again")  # what is imported and made once is not counted
[value.const_value.numpy() for value in mopir.load(small).graph.initializers.values()]
if job == "convert":
    again = small + ".again.npz"
    write_weights(again, {"weight": np.eye(64, dtype=np.float32)})
    for suffix in [Path(path).suffix for path in paths * 2]:
        convert_weights(Path(again), Path(again := again + suffix), check=True)
before = kilobytes("VmRSS")
if job == "save":  # the network in memory, every weight a plain array; then it is saved
    import onnx_ir
    model = mopir.load(paths[0])
    for name, value in model.graph.initializers.items():
        value.const_value = onnx_ir.Tensor(value.const_value.numpy().copy(), name=name)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    mopir.save(model, paths[1])
elif job == "load":
    Path("/proc/self/clear_refs").write_text("5")
    model = mopir.load(paths[0])
    [value.const_value.numpy() for value in model.graph.initializers.values()]
else:
    Path("/proc/self/clear_refs").write_text("5")
    convert_weights(*map(Path, paths), check=True)
print((kilobytes("VmHWM") - before) * 1024)
"""


def peak(job: str, small: Path, *paths: Path) -> int:
    """Return the memory that a job took at its peak, in bytes, what it loaded or saved included."""
    return int(run(MEASURE, job, small, *paths))


@dataclass(frozen=True)
class Memory:
    """Memory taken at the peak, in bytes."""

    what: str
    taken: int
    target: float

    @property
    def met(self) -> bool:
        return self.taken <= self.target

    def row(self) -> list[str]:
        numbers = [f"{size / MB:.0f}" for size in (self.taken, self.target)]
        return [self.what, *numbers, "yes" if self.met else "**no**"]


ROUTE = "safetensors mopir npz mopir safetensors npz pth mopir pth npz safetensors pth safetensors"
"""A way through all formats that takes each of the twelve conversions once."""


def conversions(folder: Path, tensors: int, tensor: int, small: Path) -> list[Memory]:
    """Convert a large file of weights through all formats; half of it is pruned."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((tensor // 16384, 4096), dtype=np.float32)
    pruned = np.where(np.abs(dense) > 1.6, dense, 0).astype(np.float32)
    source = folder / "0.safetensors"
    write_lazily(source, {f"layer{i}.weight": lazy(pruned if i % 2 else dense) for i in range(tensors)})
    found = []
    for number, suffix in enumerate(ROUTE.split()[1:], start=1):
        target, size = folder / f"{number}.{suffix}", source.stat().st_size
        what = f"{source.suffix} of {size / 1e9:.2f} GB to .{suffix}"
        found.append(Memory(what, peak("convert", small, source, target), 2 * tensor + 200 * MB))
        source.unlink()  # what was written was compared with it
        source = target
    arrived, _ = read_lazily(source)
    for i in range(tensors):
        one = arrived[f"layer{i}.weight"]
        if one.read().tobytes() != (pruned if i % 2 else dense).tobytes():
            raise AssertionError("what came back is not what was sent")
    return found


# ---- the page

PAGE = """# .mopir files: size, speed, memory

{machine}

Written by `{command}`; `make bench` runs it. Best of {repeats} rounds in which all sides take turns, so that all see
the same noise{bystanders}. ResNet-50, float32: 25,557,032 parameters and 53,120 running statistics, all random.

## Size

In MB of 1,000,000 bytes; the header, which holds the graph, is part of the file.

{sizes}

## Speed

Against `safetensors.numpy`, which saves and loads the dense weights, in the same run.

{speed}

![Times of safetensors with the dense weights]({name}.png)

- **ours** and **theirs** are milliseconds, **ratio** is ours over theirs. A ratio in one run says more than
  milliseconds, which depend on the machine.
- Each load is the first of a process, as a program loads a network; both sides take turns.
- Ours also writes, reads and checks the graph, and checks a CRC32 of every weight. Saving ends when the file is on the
  disk (`fsync`), which `save_file` leaves to the system.
- {verdict}

## Memory

In MB at the peak, above what the process took before: of loading, with every weight decoded and kept, and of saving,
the network in memory included. Target: the dense weights and 64 MiB.

{memory}

## Large files

Files of weights, converted one tensor at a time as `mopruning convert` does; half of the tensors are pruned to 89%.
Memory in MB at the peak, above what the process took before, of converting and of the check that reads both files
again. Target: twice the largest tensor ({tensor:.0f} MB) and 200 MB. What arrived in the end was compared with what was
sent, bit for bit.

{conversions}
"""


def report(tables: Mapping[str, Table], speeds: Sequence[Speed], missed: Sequence[str], **facts: object) -> None:
    where = machine("numpy", "safetensors", "onnx-ir")
    text = PAGE.format(
        name="ir_files",
        machine=facts_table(where),
        command=where["command"],
        verdict=verdict(missed),
        **{name: table.markdown() for name, table in tables.items()},
        **facts,
    )
    write("ir_files", text, {"machine": where, **{name: [list(row) for row in t.rows] for name, t in tables.items()}})
    chart(
        "ir_files",
        "Times of safetensors with the dense weights, ResNet-50 pruned",
        [one.what.removeprefix("- ") for one in speeds],
        [one.ratio for one in speeds],
        [one.target for one in speeds],
        log=False,
    )


def main() -> int:
    parser = command_line(__doc__, "two rounds, a small file to convert", 15, 2)
    parser.add_argument("--folder", type=Path, default=None, help="where 9 GB of files may lie for a while")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    tensors, tensor = (8, 16 << 20) if arguments.quick else (64, 64 << 20)

    sizes, speeds, memories = [], [], []
    bystanders = Bystanders()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        small = folder / "small.mopir"
        mopir.save(zoo.build("lenet5"), small)
        for network in NETWORKS:
            model = network.build()
            speeds += speed(network, model, folder, repeats, small)
            path, dense = folder / "net.mopir", folder / "net.safetensors"
            sizes.append(size(network, path, dense))
            limit = sum(weight.nbytes for weight in weights_of(model).values()) + (64 << 20)
            del model
            memories.append(Memory(f"{network.name}: load", peak("load", small, path), limit))
            memories.append(Memory(f"{network.name}: save", peak("save", small, path, folder / "copy.mopir"), limit))
        others = bystanders.cores()
        converted = conversions(folder, tensors, tensor, small)

    of_memory = ("what", "peak, MB", "target, MB", "met")
    tables = {
        "sizes": Table(
            "Size",
            ("network", "dense, MB", "file, MB", "header, MB", "target, MB", "met", "tensors stored as"),
            [one.row() for one in sizes],
        ),
        "speed": Table(
            "Speed", ("what", "ours, ms", "theirs, ms", "ratio", "target", "met"), [one.row() for one in speeds]
        ),
        "memory": Table("Memory", of_memory, [one.row() for one in memories]),
        "conversions": Table("Large files", of_memory, [one.row() for one in converted]),
    }
    for table in tables.values():
        table.print()
    missed = [f"{one.network}: {one.file / MB:.2f} MB, target {one.target / MB:g}" for one in sizes if not one.met]
    missed += [f"{one.what}: ratio {one.ratio:.2f}, target {one.target}" for one in speeds if not one.met]
    missed += [f"{one.what}: {one.taken / MB:.0f} MB" for one in (*memories, *converted) if not one.met]
    tell(missed, others)
    if not arguments.quick:
        note = aside(others)
        report(tables, speeds, missed, repeats=repeats, bystanders=note, tensor=tensor / MB)
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
