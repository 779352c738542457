"""Which devices MindSpore can use here."""

from __future__ import annotations

import mindspore as ms
from mindspore._c_expression import MSContext

from mopruning.errors import MopruningError

TARGETS = ("Ascend", "GPU", "CPU")


class DeviceError(MopruningError, RuntimeError):
    """A device that this machine, or this build of MindSpore, does not have."""


def devices() -> tuple[str, ...]:
    """Return the device targets present, the fastest kind first.

    >>> "CPU" in devices()
    True
    """
    # mindspore.hal.is_available asks this too, but logs a page of warnings for each absent one (MindSpore 2.10)
    return tuple(target for target in TARGETS if MSContext.get_instance().is_pkg_support_device(target))


def use_device(device_target: str, device_id: int | None = None) -> None:
    """Make MindSpore compute on a device from now on; it comes before the first computation.

    Args:
        device_target: "Ascend", "GPU" or "CPU".
        device_id: Number of the device; MindSpore's choice by default.

    Raises:
        DeviceError: If there is no such device here; the message names those present.

    >>> use_device("CPU")
    >>> ms.get_context("device_target")
    'CPU'
    """
    present = devices()
    if device_target not in present:
        known = device_target in TARGETS
        reason = "is not present" if known else f"is none of {', '.join(TARGETS)}"
        hint = "; a device also needs its own build of MindSpore and its driver" if known else ""
        raise DeviceError(f"device_target {device_target!r} {reason}; present here: {', '.join(present)}{hint}")
    if device_id is not None:
        ms.set_device(device_target, device_id)
    elif device_target != ms.get_context("device_target"):  # once it computes, MindSpore takes no further choice
        ms.set_device(device_target)
