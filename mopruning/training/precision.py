"""Precision: the numbers that a network computes with while it trains."""

from __future__ import annotations

from collections.abc import Mapping

PRECISIONS: Mapping[str, str | None] = {"none": None, "bf16": "bfloat16", "fp16": "float16"}
"""Value of --amp -> name of the dtype of what is computed in lower precision; weights are float32 whatever it is."""
