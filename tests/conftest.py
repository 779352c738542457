"""What several test files share: PyTorch, the device to test it on, and how hypothesis searches."""

import gc
import itertools
import os

import hypothesis
import pytest

# With AVX-512 MindSpore 2.10 takes oneDNN's reference convolution, far slower; this is read at the first computation.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# Derandomized: a failure shows on every machine. No deadline: the machine may be busy.
hypothesis.settings.register_profile("mopruning", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("mopruning")


_tests = itertools.count()


def pytest_configure() -> None:
    """Let the garbage collector look less often: tests build large graphs, and few cycles."""
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep the garbage collector, every few tests, from walking again over what is there to stay.

    MindSpore 2.10 collects garbage whenever it compiles: with four frameworks and all tests in memory that took a
    second each time.
    """
    if next(_tests) % 10 == 0 or item.get_closest_marker("slow"):
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, or a skip where it is not installed."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def device(torch):
    """Device of the tensors under test: MOPRUNING_TEST_DEVICE=cuda runs the same tests on a GPU."""
    return torch.device(os.environ.get("MOPRUNING_TEST_DEVICE", "cpu"))
