"""Which shapes may be zeroed: one frozen dataclass for each granularity, one file for each family."""

from mopruning.granularity.balanced import NM, Balanced, BankBalanced, Unstructured
from mopruning.granularity.base import Granularity
from mopruning.granularity.pattern import KernelPattern, natural_patterns
from mopruning.granularity.text import parse_granularity
from mopruning.granularity.units import Block, Channel, Filter, Stripe

__all__ = [
    "NM",
    "Balanced",
    "BankBalanced",
    "Block",
    "Channel",
    "Filter",
    "Granularity",
    "KernelPattern",
    "Stripe",
    "Unstructured",
    "natural_patterns",
    "parse_granularity",
]
