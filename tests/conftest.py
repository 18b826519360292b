"""What every test gets: one Hypothesis profile, and GPU tests only where there is a GPU."""

from __future__ import annotations

import hypothesis
import pytest

# Shared machines stall for reasons of their own, so a slow example is no failure. A failure prints
# the line that replays it.
hypothesis.settings.register_profile("headrace", deadline=None, print_blob=True)
hypothesis.settings.load_profile("headrace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import onnxruntime  # slow to import, so only where a test asks for it

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="onnxruntime has no CUDA here"))
