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
