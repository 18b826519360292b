"""Travellers who ask about real flights for as long as the demo wants: over REST and gRPC, each under its own name.

Decides who asks when, and notes of every call who asked, which version answered and what. A traveller belongs to one
thread, so no two of one traveller's calls overlap and their order is known. It must never retry, never drop a call from
its notes, and never outlive ``stop``.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from examples.flights.bundle import MODEL_NAME
from examples.flights.callers import LIMIT_S, PATH, Asked, request_text, some_of, tensors_of
from examples.flights.onnx_export import OUTPUT

USER_HEADER = "x-user"
TRAVELLERS = 2_000
THREADS = 2
RATE_PER_S = 400.0
"""Asked for, of all threads together; what a slow machine leaves is what is measured."""
REST, GRPC = "REST", "gRPC"
_JOIN_S = 2 * LIMIT_S + 5.0
_FAILURE_CHARACTERS = 300


@dataclass(frozen=True)
class Call:
    """One call; times in seconds since 1970. ``failure`` is empty for an answer, else ``version`` is 0."""

    began_s: float
    ended_s: float
    traveller: int
    front: str
    version: int
    chance: float
    failure: str = ""

    @property
    def is_odd(self) -> bool:
        """Whether the answer is no probability."""
        return not self.failure and not 0 <= self.chance <= 1  # which NaN is not either


class TravellersError(Exception):
    """The travellers could not be stopped."""


_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)
"""Whatever comes instead of an answer, one that cannot be read included."""
Ask = Callable[[int, str], tuple[int, float]]
"""Place of the flight and name of the traveller: the version that answered, and its chance."""


class Travellers:
    """All of them, from ``begin`` to ``stop``, or to the end of a ``with``."""

    def __init__(self, addresses: dict[str, str], asked: Asked) -> None:
        self._addresses = addresses
        self._singles = [some_of(asked, [place]) for place in range(len(asked["flight"]))]
        self._stop = threading.Event()
        self._notes: list[list[Call]] = [[] for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"travellers-{number}", daemon=True)
            for number in range(THREADS)
        ]  # fmt: skip

    def __enter__(self) -> Travellers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self) -> None:
        """Have everybody ask from now on."""
        for thread in self._threads:
            thread.start()

    def calls(self, since_s: float = 0.0) -> list[Call]:
        """All that have ended and began at ``since_s`` or later, in the order of each traveller."""
        found = [call for notes in self._notes for call in notes[:] if call.began_s >= since_s]
        return sorted(found, key=lambda call: call.began_s)

    def stop(self) -> None:
        """Have everybody finish the call that is under way. Raises ``TravellersError`` if somebody does not."""
        self._stop.set()
        until = time.monotonic() + _JOIN_S
        for thread in (one for one in self._threads if one.is_alive()):
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise TravellersError(f"a traveller's call had no end after {_JOIN_S:g} s")

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        own = range(number, TRAVELLERS, THREADS)
        every_s = THREADS / RATE_PER_S
        rest = _Rest(self._addresses["http"], self._singles)
        grpc = _Grpc(self._addresses["grpc"], self._singles)
        fronts: Sequence[tuple[str, Ask]] = ((REST, rest.ask), (GRPC, grpc.ask))
        notes = self._notes[number]
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                front, ask = fronts[len(notes) % len(fronts)]
                place = chance.randrange(len(self._singles))
                notes.append(_noted(ask, place, chance.choice(own), front))
                # Who is late does not catch up: a burst would be no traveller's doing.
                due = max(due + every_s, time.monotonic())
                self._stop.wait(due - time.monotonic())
        finally:
            rest.close()
            grpc.close()


def _noted(ask: Ask, place: int, traveller: int, front: str) -> Call:
    began_s = time.time()
    try:
        version, chance = ask(place, f"traveller-{traveller:04}")
    except _FAILURES as error:
        failure = (str(error) or repr(error))[:_FAILURE_CHARACTERS]
        return Call(began_s, time.time(), traveller, front, 0, np.nan, failure)
    return Call(began_s, time.time(), traveller, front, version, chance)


class _Rest:
    """JSON, prepared once for each flight."""

    def __init__(self, address: str, singles: Sequence[Asked]) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
        self._bodies = [request_text(one).encode() for one in singles]

    def ask(self, place: int, traveller: str) -> tuple[int, float]:
        headers = {"Content-Type": "application/json", USER_HEADER: traveller}
        try:
            self._connection.request("POST", PATH, self._bodies[place], headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next call connects anew
            raise
        if answer.status != http.client.OK:
            raise ValueError(f"HTTP {answer.status}: {text.decode(errors='replace')}")
        told = json.loads(text)
        return int(told["model_version"]), float(told["outputs"][0]["data"][0])

    def close(self) -> None:
        self._connection.close()


class _Grpc:
    """``tritonclient``, with its tensors prepared once for each flight."""

    def __init__(self, address: str, singles: Sequence[Asked]) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(address)
        self._tensors = [tensors_of(tritonclient.grpc, one) for one in singles]

    def ask(self, place: int, traveller: str) -> tuple[int, float]:
        try:
            answer = self._client.infer(
                MODEL_NAME,
                self._tensors[place],
                headers={USER_HEADER: traveller},
                client_timeout=LIMIT_S,
            )
        except InferenceServerException as error:
            raise ValueError(f"{error.status()}: {error.message()}") from error
        chances: Any = answer.as_numpy(OUTPUT)
        return int(answer.get_response().model_version), float(chances[0, 0])

    def close(self) -> None:
        self._client.close()
