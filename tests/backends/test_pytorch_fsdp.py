"""PyTorch: parameters that two processes share out (`fully_shard`) are pruned as whole ones."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")


def test_two_processes_prune_what_they_share_out_as_one_prunes_the_whole(tmp_path):
    """All cases of `sharded_training.py` in one test: what costs is to start two processes, not to train."""
    command = [sys.executable, "-m", "tests.backends.sharded_training"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for each other while processes do cost minutes
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True, env=alone)
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    wrong = [f"rank {rank}, {case}:\n{text}" for rank in (0, 1) for case, text in found[rank].items() if text]
    assert not wrong, "\n".join(wrong)
    assert len(found[0]) >= 10
