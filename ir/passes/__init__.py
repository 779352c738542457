"""Passes: pure functions that take a model and return a new one, or a report on it."""

from mopruning.ir.passes.constants import fold_constants
from mopruning.ir.passes.cost import CostReport, CostRow, cost
from mopruning.ir.passes.extract import ExtractError, extract
from mopruning.ir.passes.fold_batchnorm import fold_batchnorm
from mopruning.ir.passes.lower_stripes import lower_stripes
from mopruning.ir.passes.permute import permute
from mopruning.ir.passes.permuted import Permuted, PermutedGroup, PermutedLayer
from mopruning.ir.passes.shapes import ShapeError, infer_shapes
from mopruning.ir.passes.shrink import Shrunk, ShrunkRow, shrink, shrink_report
from mopruning.ir.passes.sparsity import ModelSparsity, WeightRow, sparsity

__all__ = [
    "CostReport",
    "CostRow",
    "ExtractError",
    "ModelSparsity",
    "Permuted",
    "PermutedGroup",
    "PermutedLayer",
    "ShapeError",
    "Shrunk",
    "ShrunkRow",
    "WeightRow",
    "cost",
    "extract",
    "fold_batchnorm",
    "fold_constants",
    "infer_shapes",
    "lower_stripes",
    "permute",
    "shrink",
    "shrink_report",
    "sparsity",
]
