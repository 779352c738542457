"""Make `mopruning.backends` and `mopruning.ir` importable in a checkout that is not installed."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
FOLDERS = {"mopruning.backends": ROOT / "backends", "mopruning.ir": ROOT / "ir"}


class CheckoutFinder(MetaPathFinder):
    """Find the two packages that live outside `mopruning/`, for this checkout's `mopruning` only."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = FOLDERS.get(fullname)
        if folder is None or not path or Path(path[0]).resolve() != ROOT / "mopruning":
            return None  # an installed wheel must bring its own
        return spec_from_file_location(fullname, folder / "__init__.py", submodule_search_locations=[str(folder)])


sys.meta_path.insert(0, CheckoutFinder())  # before the finder of an editable install of another checkout
