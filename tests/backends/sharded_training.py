"""One of two processes that train a network whose parameters they share out. Arguments: rank, folder.

Every case trains the same network whole beside it, and writes what went wrong, "" if nothing did.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import conftest  # noqa: F401  it makes `mopruning.backends` importable in a checkout
from mopruning import sparsity
from mopruning.backends.pytorch import AdamSparse, Prune, SGDSparse, SparseOptimizer
from mopruning.errors import RecipeError, WeightError

RAMP = {"pretrain_step": 0, "sparse_step": 2, "frequency": 1}
STEPS = 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, bias=False),  # 4 filters on the first rank, 3 on the second
        nn.GroupNorm(1, 7),
        nn.ReLU(),
        nn.ConvTranspose2d(7, 4, 2, stride=2),  # shared out along the input channels
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 9),
        nn.ReLU(),
        nn.Linear(9, 1),  # nothing of it on the second rank
    )


def shard(model: nn.Sequential, **arguments: Any) -> nn.Sequential:
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, **arguments)
    fully_shard(model, **arguments)
    return model


def train(model: nn.Module, optimizer: Any, steps: range, share: slice = slice(None), after: Any = None) -> None:
    for step in steps:
        torch.manual_seed(step)
        images, targets = torch.randn(8, 3, 6, 6), torch.randn(8, 1)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(images[share]), targets[share]).backward()
        optimizer.step()
        if after:
            after()


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sgd(model: nn.Module, **sparse: Any) -> SGDSparse:
    # foreach is set, so that neither run borrows the fused kernel, which rounds differently
    when = {} if "recipe" in sparse else RAMP
    return SGDSparse(model.named_parameters(), lr=0.05, momentum=0.9, foreach=False, **when, **sparse)


def agree(model: nn.Module, optimizer: Any, other: nn.Module, its: Any, tolerance: float = 0.0) -> None:
    """Check that masks are the same bit for bit, weights the same, and all that is pruned exactly zero."""
    masks = [o.state_dict()["mopruning"]["masks"] for o in (optimizer, its)]
    assert masks[0].keys() == masks[1].keys()
    for name in masks[0]:
        assert torch.equal(masks[0][name], masks[1][name]), f"mask of {name}"
    assert optimizer.pruner.sparsity == its.pruner.sparsity > 0.3
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    for (name, mine), theirs in pairs:
        found = whole(mine.detach())
        torch.testing.assert_close(found, theirs.detach(), rtol=0, atol=tolerance, msg=name)
        if name in masks[1]:
            keep = its._sparsifier._erasers[name]._mask != 0
            assert bool((found[~keep] == 0).all()), f"pruned weights of {name}"
            momentum = whole(optimizer.state[mine]["momentum_buffer"])
            assert bool((momentum[~keep] == 0).all()), f"momentum of {name}"
    assert sparsity(other).per_parameter == {name: sparsity_of(p) for name, p in model.named_parameters()}


def sparsity_of(parameter: Any) -> float:
    return float((whole(parameter.detach()) == 0).sum()) / parameter.numel()


def both(rank: int, sparse: dict[str, Any], tolerance: float = 0.0, halves: bool = False, **arguments: Any) -> None:
    """Train with and without shards, by the same images on all ranks or by half of them on each."""
    other = network()
    model = shard(network(), **arguments)
    optimizer, its = sgd(model, **sparse), sgd(other, **sparse)
    assert str(optimizer.plan) == str(its.plan)
    share = slice(4 * rank, 4 * rank + 4) if halves else slice(None)
    for step in range(STEPS):
        train(model, optimizer, range(step, step + 1), share)
        train(other, its, range(step, step + 1))
        masks = [pruner.state_dict()["masks"] for pruner in (optimizer.pruner, its.pruner)]
        assert all((masks[0][name] == masks[1][name]).all() for name in masks[1]), f"masks of step {step}"
    agree(model, optimizer, other, its, tolerance)


def case_global(rank: int, folder: Path) -> None:
    both(rank, {"target_sparsity": 0.7, "allocation": "global"})


def case_half_of_the_images_each(rank: int, folder: Path) -> None:
    both(rank, {"target_sparsity": 0.7, "allocation": "global"}, tolerance=1e-6, halves=True)


def case_granularities(rank: int, folder: Path) -> None:
    layers = {"0.weight": "pattern", "3.weight": "channel", "6.weight": "bank:64", "8.weight": "unstructured"}
    recipe = {
        "sparsity": 0.6,
        "layers": {name: {"granularity": text} for name, text in layers.items()},
        "schedule": {"start": 1, "length": 2, "frequency": 1},
        "l1": 1e-4,
    }
    both(rank, {"recipe": recipe})


def case_units_and_erk(rank: int, folder: Path) -> None:
    special = {"granularity": "filter", "target_sparsity": 0.5, "allocation": "erk", "include_1d": False}
    both(rank, special, mesh=init_device_mesh("cpu", (1, 2), mesh_dim_names=("copies", "shards")))


def case_scores_of_gradients(rank: int, folder: Path) -> None:
    both(rank, {"target_sparsity": 0.6, "score": "movement", "allocation": "global"})
    both(rank, {"target_sparsity": 0.6, "score": "taylor", "granularity": "filter", "skip": ["8.weight"]})


def case_a_whole_parameter_among_shards(rank: int, folder: Path) -> None:
    other, model = network(), network()
    fully_shard(model, ignored_params={model[6].weight})
    sparse = {"target_sparsity": 0.7, "allocation": "global"}
    optimizer, its = sgd(model, **sparse), sgd(other, **sparse)
    train(model, optimizer, range(STEPS))
    train(other, its, range(STEPS))
    agree(model, optimizer, other, its)


def case_prune(rank: int, folder: Path) -> None:
    targets = {"0.weight": 0.5, "6.weight": 0.8, "8.weight": 0.4}
    runs = []
    for model in (network(), shard(network())):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, foreach=False)
        prune = Prune(model, 0, 2, 1, targets, balance="none", optimizer=optimizer)
        train(model, optimizer, range(STEPS), after=prune.prune)
        runs.append((model, prune))
    (other, its), (model, prune) = runs
    assert prune.sparsity() == its.sparsity()
    assert prune.sparsity()[0] == {"0.weight": 94 / 189, "6.weight": 1843 / 2304, "8.weight": 3 / 9}
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(whole(mine.detach()), theirs.detach())
    again = Prune(network(), 0, 2, 1, targets, balance="none")  # whole, from what ranks saved
    again.load_state_dict(prune.state_dict())
    assert again.sparsity()[0] == its.sparsity()[0]


def case_resume(rank: int, folder: Path) -> None:
    sparse = {"target_sparsity": 0.6, "score": "movement", "allocation": "global"}
    model = shard(network())
    optimizer = sgd(model, **sparse)
    train(model, optimizer, range(2))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{rank}.pth")
    train(model, optimizer, range(2, STEPS))

    saved = torch.load(folder / f"{rank}.pth", weights_only=True)
    again = shard(network())
    its = sgd(again, **sparse)
    again.load_state_dict(saved["model"])
    its.load_state_dict(saved["optimizer"])
    assert its.pruner.steps == 2
    train(again, its, range(2, STEPS))
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine.to_local(), theirs.to_local())
    assert optimizer.pruner.sparsity == its.pruner.sparsity


def case_resume_by_a_distributed_checkpoint(rank: int, folder: Path) -> None:
    """A state is set up by a step of the optimizer (torch 2.13), which must not count: it becomes sparse after that."""
    sparse = {"target_sparsity": 0.6, "allocation": "global", **RAMP}
    runs = []
    for resumed in (False, True):
        model = shard(network())
        native = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, foreach=False)
        if resumed:
            weights, state, section = torch.load(folder / f"{rank}.pth", weights_only=True)
            model.load_state_dict(weights)
            set_optimizer_state_dict(model, native, state)
        optimizer = SparseOptimizer(native, model, **sparse)
        if resumed:
            optimizer.load_state_dict({**optimizer.state_dict(), "mopruning": section})
        else:
            train(model, optimizer, range(2))
            state = get_optimizer_state_dict(model, native)
            torch.save((model.state_dict(), state, optimizer.state_dict()["mopruning"]), folder / f"{rank}.pth")
        train(model, optimizer, range(2, STEPS))
        runs.append(model)
    for mine, theirs in zip(*(model.parameters() for model in runs), strict=True):
        assert torch.equal(mine.to_local(), theirs.to_local())


def case_adam_goes_on_whole(rank: int, folder: Path) -> None:
    """Masks that ranks saved are those of the whole parameters."""
    sparse = {"target_sparsity": 0.5, "granularity": "2:4", **RAMP}
    model = shard(network())
    optimizer = AdamSparse(model, lr=0.01, **sparse)
    train(model, optimizer, range(STEPS))
    alone = network()
    alone.load_state_dict({name: whole(value) for name, value in model.state_dict().items()})
    its = AdamSparse(alone, lr=0.01, **sparse)
    its.load_state_dict({**its.state_dict(), "mopruning": optimizer.state_dict()["mopruning"]})
    assert its.pruner.sparsity == optimizer.pruner.sparsity == 0.5
    assert sparsity(alone).per_parameter["6.weight"] == 0.5


def case_errors(rank: int, folder: Path) -> None:
    model = shard(network())
    for sparse, word in [({"score": "fpgm", "granularity": "filter"}, "fpgm"), ({"allocation": "lamp"}, "lamp")]:
        with pytest.raises(RecipeError, match=word):
            sgd(model, target_sparsity=0.5, **sparse)
    grouped = nn.Sequential(nn.ConvTranspose2d(8, 4, 3, groups=2), nn.Linear(4, 4))
    fully_shard(grouped)
    with pytest.raises(RecipeError, match="transposed convolution with 2 groups"):
        sgd(grouped, target_sparsity=0.5)
    sgd(grouped, target_sparsity=0.5, skip=["0.weight"])
    prune = Prune(model, prune_dict={"6.weight": 0.5}, balance="none")
    if rank:
        model[6].weight.detach().to_local()[0, 0] = float("nan")
    with pytest.raises(WeightError, match=r"6\.weight: 1 NaN and 0 infinite of 2304"):
        prune.prune()


def main(rank: int, folder: Path) -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, case in [(name, case) for name, case in globals().items() if name.startswith("case_")]:
        try:
            case(rank, folder)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
