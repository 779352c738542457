"""Labelled images to train and to measure on: read from the files that data sets are published in, never downloaded."""

from mopruning.datasets.batches import batches
from mopruning.datasets.images import Images
from mopruning.datasets.loading import load

__all__ = ["Images", "batches", "load"]
