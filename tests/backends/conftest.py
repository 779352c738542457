"""What the tests of all backends share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """Let PyTorch compute in one thread: on tensors this small, and a busy machine, more only wait for each other."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if threads:
        torch.set_num_threads(threads)


@pytest.fixture(params=["PYNATIVE", "GRAPH"])
def mode(request):
    """Let MindSpore run in each of its modes."""
    yield from in_mode(request.param)


@pytest.fixture
def graph_mode():
    """Let MindSpore compile its graphs."""
    yield from in_mode("GRAPH")


def in_mode(name):
    mindspore = pytest.importorskip("mindspore")
    mindspore.set_context(mode=getattr(mindspore, f"{name}_MODE"))
    yield name
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
