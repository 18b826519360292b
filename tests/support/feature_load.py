"""A steady load on a model with features: every answer is held against what the store was given and what was told.

An answer may have defaults in it, or a copy, only where its ``feature_status`` says so.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.support.feature_rows import (
    KNOWN_DEFAULTS,
    features_toml,
    row_statuses,
    status_of,
    users,
    write_seen,
)
from tests.support.protocol_callers import Ask, make_caller
from tests.support.raw_http import RawHttp, get
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

MODEL = "known"
BUDGET_MS = 40.0
USERS = range(60)
MAX_ROWS = 5
PAUSE_S = 0.004
WAYS = ("http-lane", "grpc")
CALM_ANSWERS = 40
"""So many in a row without a default: all is well again."""


def write_model(root: Path) -> None:
    """The model that is asked: one value of a view without copies, one of a view with them."""
    write_seen(root, MODEL, 2, features_toml("known", budget_ms=BUDGET_MS))


class FeatureLoad:
    """A context: threads ask over HTTP and gRPC, one more whether the gateway is ready.

    At its end there must have been no failure at all, and no value that nobody wrote.
    """

    def __init__(self, server: ServerProcess, *, seed: int = 0) -> None:
        self.answers = 0
        self.seen: Counter[tuple[str, str]] = Counter()
        """Rows by (view, status)."""
        self.calm = 0
        """Answers since the last one that was not all PRESENT."""
        self._server = server
        self._stop = threading.Event()
        self._failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(self._ask_on, way, seed + number), daemon=True
            )
            for number, way in enumerate(WAYS)
        ]
        self._threads.append(
            threading.Thread(target=self._guarded, args=(self._watch,), daemon=True)
        )

    # -- asking -----------------------------------------------------------------------------------

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001  # told by the test's own thread
            self._failures.append(f"{type(error).__name__}: {error}")

    def _ask_on(self, way: str, seed: int) -> None:
        choose = random.Random(seed)
        caller = make_caller(way, self._server)
        try:
            while not self._stop.wait(PAUSE_S):
                numbers = choose.choices(USERS, k=choose.randint(1, MAX_ROWS))
                ask = Ask(MODEL, [users(numbers)], parameters={"feature_status": True})
                answer = caller.ask(ask)
                told, values = status_of(answer), answer.outputs["y"].tolist()
                assert len(values) == len(numbers)
                views = [
                    row_statuses(told, view, len(numbers)) for view in ("last_seen", "profile")
                ]
                for number, (seen, age), now, kept in zip(numbers, values, *views, strict=True):
                    _check(number, seen, age, now, kept)
                self._note(*views)
        finally:
            caller.close()

    def _note(self, now: list[str], kept: list[str]) -> None:
        with self._lock:
            self.seen.update(("last_seen", one) for one in now)
            self.seen.update(("profile", one) for one in kept)
            self.answers += 1
            self.calm = self.calm + 1 if {*now, *kept} == {"PRESENT"} else 0

    def _watch(self) -> None:
        with RawHttp(self._server.http) as http:
            while not self._stop.wait(5 * PAUSE_S):
                answer = http.ask(get("/v2/health/ready"))
                assert answer.status == 200, answer

    # -- the test's side --------------------------------------------------------------------------

    def await_status(self, status: str, *, view: str = "last_seen", within_s: float = 10.0) -> None:
        """Until more rows of a view had this status than had it up to now."""
        before = self.seen[view, status]
        eventually(
            f"{view} is {status}",
            lambda: self._failures or self.seen[view, status] > before,
            within_s=within_s,
        )
        assert not self._failures, self._failures

    def await_calm(self, *, within_s: float = 15.0) -> None:
        """Until every value is there again, for a while."""
        with self._lock:
            self.calm = 0
        eventually(
            "all is well", lambda: self._failures or self.calm >= CALM_ANSWERS, within_s=within_s
        )
        assert not self._failures, self._failures

    def __enter__(self) -> FeatureLoad:
        for thread in self._threads:
            thread.start()
        self.await_calm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)
        if error is not None:
            error.add_note(f"seen: {dict(self.seen)}; failures: {self._failures}")
            return
        assert not any(thread.is_alive() for thread in self._threads), "an answer never came"
        assert not self._failures, self._failures


def _check(number: int, seen: float, age: float, now: str, kept: str) -> None:
    """``now``, ``kept``: what was told of ``last_seen`` and ``profile``."""
    what = f"u{number}: {seen} is {now}, {age} is {kept}"
    assert now in ("PRESENT", "MISSING", "STALE", "DEFAULTED"), what
    assert kept in ("PRESENT", "MISSING", "STALE", "DEFAULTED"), what
    assert seen == (2000.0 + number if now == "PRESENT" else KNOWN_DEFAULTS[0]), what
    # An old copy may stand in while the store fails, and is told as STALE.
    allowed = {"PRESENT": {float(number)}, "STALE": {float(number), KNOWN_DEFAULTS[1]}}
    assert age in allowed.get(kept, {KNOWN_DEFAULTS[1]}), what
