"""What is installed is what is meant: the package list, the extras, the pins, and a wheel used outside the checkout."""

import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = {"mopruning": "mopruning", "backends": "mopruning.backends", "ir": "mopruning.ir"}
CORE = {
    "array-api-compat",
    "numpy",
    "onnx",
    "onnx-ir",
    "pyyaml",
    "rich",
    "safetensors",
    "typer",
}  # the IR needs ONNX's two
EXTRAS = {"pytorch", "mxnet", "tensorflow1", "mindspore", "plot", "data", "skip", "all", "test", "docs"}


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=")
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def pins() -> list[tuple[str, str]]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("==")) for line in lines if line and not line.startswith("#")]


def canonical(requirement: str) -> str:
    """The normalised project name at the start of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def run(*command: object, cwd: Path) -> str:
    """Run a command and return its output; fail with all it said."""
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def folders_on_disk() -> set[str]:
    """The dotted names of all folders with an `__init__.py`, as they are imported."""
    names = set()
    for top, package in TOP.items():
        for init in (ROOT / top).rglob("__init__.py"):
            names.add(".".join([package, *init.parent.relative_to(ROOT / top).parts]))
    return names


def test_every_package_folder_is_listed(config):
    listed = config["options"]["packages"].split()
    assert listed == sorted(set(listed))
    assert set(listed) == folders_on_disk()


def test_every_module_lies_in_a_package():
    modules = [path for top in TOP for path in (ROOT / top).rglob("*.py")]
    assert [str(path) for path in modules if not (path.parent / "__init__.py").is_file()] == []


def test_core_dependencies_are_the_small_ones(config):
    assert {canonical(line) for line in config["options"]["install_requires"].split("\n") if line} == CORE


def test_extras_are_the_promised_ones(config):
    assert set(config["options.extras_require"]) == EXTRAS


def test_constraints_are_exact_sorted_and_unique(pins):
    assert pins
    assert [pin for pin in pins if len(pin) != 2 or not re.fullmatch(r"\d[\w.]*", pin[1])] == []
    names = [canonical(name) for name, _ in pins]
    assert names == sorted(set(names))


def test_every_requirement_is_pinned(config, pins):
    wanted = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    required = {canonical(line) for text in wanted for line in text.split("\n") if line} - {"mopruning"}
    assert required - {canonical(name) for name, _ in pins} == set()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, built from a copy so that the checkout stays as it is."""
    work = tmp_path_factory.mktemp("sdist")
    built_things = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, work / "source", ignore=built_things)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, work, cwd=work / "source")
    (built,) = work.glob("mopruning-*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """The wheel that the source distribution gives."""
    work = sdist.parent
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", sdist, cwd=work)
    (built,) = work.glob("mopruning-*.whl")
    return built


def test_source_distribution_can_be_tested(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests | {"conftest.py", "constraints.txt", "Makefile", "ruff.toml", "LICENSE"} <= names


def test_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mopruning"}
    assert "mopruning/py.typed" in names
    shipped = {name for name in names if name.endswith(".py")}
    on_disk = {
        "/".join([*package.split("."), *path.relative_to(ROOT / top).parts])
        for top, package in TOP.items()
        for path in (ROOT / top).rglob("*.py")
    }
    assert shipped == on_disk


def test_installed_wheel_works_outside_the_checkout(wheel, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # Lend it this environment's dependencies. A folder named in a .pth file has its own .pth files left unread,
    # so an editable install's finder does not come along.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    lent = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "dependencies.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")

    for name in TOP.values():
        show = f"import {name} as module; print(module.__file__)"
        file = Path(run(python, "-I", "-c", show, cwd=tmp_path).strip())
        assert file == site.joinpath(*name.split("."), "__init__.py")
    assert "Usage" in run(venv / "bin" / "mopruning", "--help", cwd=tmp_path)
