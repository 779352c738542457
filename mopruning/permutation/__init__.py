"""Permutation of channels that lets N:M pruning keep more: the search, on matrices.

N:M pruning keeps the n largest of every m consecutive input channels, so which channels stand together decides how much
magnitude survives. The order of the channels is free, as long as whoever produces them follows it.
"""

from mopruning.permutation.kept import kept, kept_at_best
from mopruning.permutation.search import Permutation, search

__all__ = ["Permutation", "kept", "kept_at_best", "search"]
