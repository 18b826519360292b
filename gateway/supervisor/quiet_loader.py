"""Loads a version while others are served: on a thread that the system runs when nobody who serves wants the core.

Without that, a load takes half of a core that answers calls with the other half, and at half load there is not enough
left. It must never lower the threads that will run the model: ONNX Runtime's pools inherit the priority of the thread
that opens a session, and no ordinary process may raise it again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from backends.manager import LoadedModel, Loader, Report
from backends.repository import DesiredModel, DesiredVersion, Problem

NICER_BY = 19
"""Steps of Unix niceness, all that there are: a seventieth of a core that others want. Idle priority would be less, but
on a machine without an idle moment such a thread might hold the interpreter and not get the time to let go of it."""


class QuietLoader(Loader):
    """A ``Loader`` that steps back for those who serve."""

    def attempt(
        self, model: DesiredModel, version: DesiredVersion, report: Report
    ) -> LoadedModel | Problem:
        if self._makes_threads(model):
            return super().attempt(model, version, report)
        # A thread for this load alone: it stays low for good.
        with ThreadPoolExecutor(1, "loading", initializer=step_back) as aside:
            return aside.submit(super().attempt, model, version, report).result()

    def _makes_threads(self, model: DesiredModel) -> bool:
        """It will run on threads that its session makes, or on a device whose driver makes some."""
        wants = model.settings.onnxruntime
        threads = wants.intra_op_threads or self._intra_op_threads
        return threads > 1 or wants.execution_mode == "parallel" or wants.device != "cpu"


def step_back() -> None:
    """Lower the priority of the calling thread; where the system cannot do that for a thread, nothing happens."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICER_BY
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
