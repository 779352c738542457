"""Prune once, in any framework, and carry the sparse network to any other."""

from mopruning.granularity import NM, BankBalanced, Block, Channel, Filter, KernelPattern, Stripe, Unstructured
from mopruning.masks import mask
from mopruning.pruner import Pruner
from mopruning.recipe import Recipe
from mopruning.report import sparsity

__version__ = "0.1.0.dev0"

__all__ = [
    "NM",
    "BankBalanced",
    "Block",
    "Channel",
    "Filter",
    "KernelPattern",
    "Pruner",
    "Recipe",
    "Stripe",
    "Unstructured",
    "mask",
    "sparsity",
]
