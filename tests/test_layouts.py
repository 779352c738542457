"""How weights lie: every layout undoes itself, and swapped channels are what each group says."""

import doctest

import numpy as np
import pytest

from mopruning import layouts
from mopruning.layouts import KernelLayout, Layout, swap_channels


def test_channels_are_swapped_within_their_group():
    array = np.arange(6 * 5 * 3).reshape(6, 5, 3)
    whole, grouped = swap_channels(array, 1), swap_channels(array, 2)
    np.testing.assert_array_equal(whole, array.transpose(1, 0, 2))
    np.testing.assert_array_equal(grouped, np.concatenate([half.transpose(1, 0, 2) for half in (array[:3], array[3:])]))
    assert np.shares_memory(whole, array)
    np.testing.assert_array_equal(swap_channels(grouped, 2), array)


@pytest.mark.parametrize(
    ("layout", "native", "canonical"),
    [
        (Layout(), (8, 4, 3, 3), (8, 4, 3, 3)),
        (Layout(groups=1), (8, 4, 3, 3), (4, 8, 3, 3)),
        (Layout(groups=2), (8, 3, 5), (6, 4, 5)),
        (Layout(channels_last=True), (8, 3, 5, 4), (8, 4, 3, 5)),
        (Layout(groups=2, channels_last=True), (8, 3, 5, 4), (8, 4, 3, 5)),
        (Layout(flat=True), (8, 4, 1, 5), (8, 4, 5)),
        (Layout(groups=4, flat=True), (8, 3, 1, 5), (12, 2, 5)),
        (KernelLayout((3, 2, 0, 1)), (3, 5, 4, 8), (8, 4, 3, 5)),
        (KernelLayout((2, 3, 0, 1), multiplier=2), (3, 5, 4, 2), (8, 1, 3, 5)),
        (KernelLayout((0,)), (7,), (7,)),
    ],
)
def test_layouts_undo_themselves(layout, native, canonical):
    array = np.random.default_rng(0).standard_normal(native)
    seen = layout.to_canonical(array)
    assert seen.shape == layout.shape(native) == canonical
    np.testing.assert_array_equal(layout.to_native(seen), array)


def test_tensors_lie_as_arrays_do():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    array = np.random.default_rng(0).standard_normal((8, 3, 5, 4))
    for layout in (Layout(1), Layout(4), Layout(channels_last=True), Layout(2, channels_last=True)):
        tensor = torch.from_numpy(array)
        seen = layout.to_canonical(tensor)
        np.testing.assert_array_equal(seen.numpy(), layout.to_canonical(array))
        assert torch.equal(layout.to_native(seen), tensor)


def test_docstrings():
    result = doctest.testmod(layouts)
    assert result.attempted > 0
    assert result.failed == 0
