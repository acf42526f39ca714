"""Real files for tests, which the repository does not hold."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def shared_data() -> Path:
    """The folder of real example files beside the checkout; skips the test where there is none."""
    if not FOLDER.is_dir():
        pytest.skip("no real example files in ../shared/data")
    return FOLDER
