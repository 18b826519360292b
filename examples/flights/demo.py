"""``python -m examples.flights.demo``: real flights, a real gateway, every claim checked.

Decides what a newcomer sees in the first minute, and what must be true for the demo to end well: callers send keys,
and all fronts answer what LightGBM answers for the row of the training-set builder, before and after news have come;
the store says what the files say; wrong input is explained; a version takes over from another under traffic, and a
broken one leaves by itself (``rollout_act``); the gateway stops by itself with exit code 0. It must
never leave a process behind, wait without a limit, or print a figure that it did not just measure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pandas as pd
from tritonclient.utils import InferenceServerException

from examples.flights import broken_version, rollout_act
from examples.flights.bundle import Bundle
from examples.flights.callers import (
    PATH,
    Asked,
    RestByHand,
    Told,
    TritonGrpc,
    TritonRest,
    UnexpectedAnswerError,
    asked_of,
    request_text,
    some_of,
)
from examples.flights.claims import (
    WrongAnswerError,
    check_agreement,
    check_answers,
    check_refusals,
    check_stranger,
    check_versions,
    measure_front,
    push,
)
from examples.flights.demo_page import Page, shown_path
from examples.flights.expectation import offline_chances, offline_inputs
from examples.flights.gateway_process import GatewayError, GatewayProcess, running
from examples.flights.inputs import Rows
from examples.flights.place import CommandFailedError, Headrace, Place
from examples.flights.replay import LEAD_S, Replay, json_rows
from examples.flights.rollout_page import RolloutPage
from examples.flights.stopwatch import TooSlowError
from examples.flights.tables import DataMissingError, Tables, read_tables
from examples.flights.traffic import TravellersError
from examples.flights.train import ScoresDifferError, auc_lines, own_headrace, prepare_models
from examples.flights.trees import DESIGNS, Design, Floats
from featurecache.errors import FeatureError
from featurecache.manifests.applying import read_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.writing.store_client import StoreClients
from foundation.store import Store, StoreError, open_store

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0
_SHOWN = 8
_BEFORE, _AFTER = 0, 1
_FAILURES_WHILE_ASKING = (
    OSError,
    HTTPException,
    InferenceServerException,
    TooSlowError,
    TravellersError,
    UnexpectedAnswerError,
    WrongAnswerError,
)


@dataclass(frozen=True)
class Fronts:
    """One caller of each front."""

    by_hand: RestByHand
    rest: TritonRest
    grpc: TritonGrpc


@dataclass(frozen=True)
class Asking:
    """The flights that are due, the request about them, and what was answered before and after the news."""

    flights: pd.DataFrame
    asked: Asked
    before: Told
    after: Told
    offline: dict[int, dict[int, Floats]]
    """What LightGBM says for the rows of the training-set builder: of before and after, by version."""

    @property
    def expected(self) -> Floats:
        """What the newest version must answer now."""
        now = self.offline[_AFTER]
        return now[max(now)]


def run(
    headrace: Headrace,
    page: Page,
    *,
    read: Callable[[], Tables] = read_tables,
    designs: Sequence[Design] = DESIGNS,
) -> None:
    """The whole demo, top to bottom. Raises the errors that ``main`` explains."""
    place = headrace.place
    page.title()
    page.section("What became known and when, a training set, and two versions of a model")
    page.command("headrace features apply examples/flights/definitions.py --to features")
    description = prepare_models(headrace, read=read, designs=designs, say=page.plain)
    page.figures(auc_lines(description))
    manifest = read_manifest(place.manifest)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(place.store))
        forget(place, store)
        stack.callback(broken_version.remove, Bundle(place.models))
        page.section("The gateway, and the rows of an afternoon in October 2013")
        gateway, addresses = start(stack, headrace, page)
        try:
            fronts = connect(stack, addresses)
            replay = load(headrace, manifest, page)
            asking = ask(headrace, manifest, replay, fronts, page)
            examine(headrace, fronts, asking, page)
            rollout_act.play(headrace, addresses, asking.asked, fronts.grpc, RolloutPage(page))
        except _FAILURES_WHILE_ASKING as error:
            raise gateway.failure(f"did not answer as it should: {error or repr(error)}") from error
        page.section("The end")
        stop(page, gateway)
    request = place.folder / "request.json"
    request.write_text(
        request_text(some_of(asking.asked, slice(1)), feature_status=True) + "\n", "utf-8"
    )
    own = headrace.line()[0]
    is_near = place.folder.is_relative_to(Path.cwd())
    page.by_hand(
        shown_path(place.folder),
        os.path.relpath(own, place.folder) if is_near else own,
        PATH,
        request.name,
        str(asking.flights["tailnum"].iloc[0]),
    )


def forget(place: Place, store: Store) -> None:
    """Begin anew: without what an earlier run left in the store, its rollouts, and the version that broke."""
    with StoreClients(store.url) as clients:
        clients.server().flushall()  # its rows were moved by another offset
    shutil.rmtree(place.rollouts, ignore_errors=True)
    broken_version.remove(Bundle(place.models))


def start(
    stack: ExitStack, headrace: Headrace, page: Page
) -> tuple[GatewayProcess, dict[str, str]]:
    """A gateway on free ports, until the end of the stack."""
    page.command("headrace serve")
    anywhere = ["--http-port", "0", "--grpc-port", "0", "--admin-port", "0"]
    started = time.monotonic()
    gateway = stack.enter_context(
        running(
            headrace.line("serve", *anywhere),
            folder=headrace.place.folder,
            environment=headrace.environment,
        )
    )
    addresses = dict(gateway.wait_until_ready(_START_LIMIT_S))
    page.started(time.monotonic() - started, addresses)
    return gateway, addresses


def connect(stack: ExitStack, addresses: dict[str, str]) -> Fronts:
    """One caller of each front, closed at the end of the stack."""
    return Fronts(
        stack.enter_context(closing(RestByHand(addresses["http"]))),
        stack.enter_context(closing(TritonRest(addresses["http"]))),
        stack.enter_context(closing(TritonGrpc(addresses["grpc"]))),
    )


def load(headrace: Headrace, manifest: Manifest, page: Page) -> Replay:
    """Move the afternoon to now, and load what was known by then."""
    place = headrace.place
    replay = Replay.beginning(time.time())
    counts = replay.write_past(manifest, place.tables, place.replay / "tables")
    page.command("headrace features load --data replay/tables")
    started = time.monotonic()
    headrace.run("features", "load", "--data", "replay/tables")
    page.loaded(sum(counts.values()), len(counts), time.monotonic() - started)
    return replay


def ask(
    headrace: Headrace, manifest: Manifest, replay: Replay, fronts: Fronts, page: Page
) -> Asking:
    """Ask about every flight that is due, before the jobs run and after; compare both with offline."""
    place = headrace.place
    flights = replay.flights(place.questions)
    asked = asked_of(flights)
    asked_s = {_BEFORE: time.time()}
    before = fronts.by_hand.ask_with_status(asked)
    page.asked(len(flights), replay.clock(asked_s[_BEFORE]))
    page.wait(replay.due_s - time.time())
    time.sleep(min(LEAD_S, max(0.0, replay.due_s - time.time())))

    page.section("News: the jobs of two o'clock have run")
    news = replay.write_news(manifest, place.tables, place.replay / "tables")
    pushed = {view: push(fronts.by_hand, view, json_rows(path)) for view, path in news.items()}
    page.pushed(pushed)
    asked_s[_AFTER] = time.time()
    after = fronts.by_hand.ask_with_status(asked)
    rows = offline_inputs(headrace, flights, asked_s)
    bundle = Bundle(place.models)
    offline = {when: offline_chances(bundle, of) for when, of in rows.items()}
    newest = max(offline[_BEFORE])
    for told, when in ((before, _BEFORE), (after, _AFTER)):
        check_answers("the gateway", told.chances, offline[when][newest])
    shown = most_moved(before.chances, after.chances)
    page.flights(flights.iloc[shown], before.chances[shown], after.chances[shown])
    page.compared(len(flights), int((before.chances != after.chances).sum()))
    return Asking(flights, asked, before, after, offline)


def examine(headrace: Headrace, fronts: Fronts, asking: Asking, page: Page) -> None:
    """Everything else that is claimed of the running gateway."""
    asked, expected = asking.asked, asking.expected
    page.section("What is sent, and what comes back")
    page.exchange(request_text(some_of(asked, slice(1)), feature_status=True), asking.after.report)
    stranger = check_stranger(fronts.by_hand, asked, expected)
    page.stranger(asking.flights.iloc[stranger.place], stranger)

    page.section("Three ways to ask, one answer")
    measured = [
        measure_front(caller, asked, expected)
        for caller in (fronts.by_hand, fronts.rest, fronts.grpc)
    ]
    page.fronts(measured)
    page.agreement(check_agreement(measured))
    page.versions(check_versions(fronts.grpc, asked, asking.offline[_AFTER]))

    page.section("Does the store say what the files say?")
    page.command("headrace features verify --data replay/tables")
    page.verified(headrace.run("features", "verify", "--data", "replay/tables"))

    page.section("When the input is wrong")
    for refusal in check_refusals(fronts.by_hand, fronts.grpc, asked):
        page.refusal(refusal)


def most_moved(before: Rows, after: Rows) -> list[int]:
    """Eight places, from low to high chance: half of them those that the news moved most, half a spread of all."""
    moved = np.argsort(-np.abs(after - before), kind="stable")[: _SHOWN // 2]
    rising = np.argsort(after, kind="stable")
    others = [one for one in rising if one not in moved]
    spread = np.linspace(0, len(others) - 1, _SHOWN - len(moved)).astype(int)
    chosen = {*moved.tolist(), *(int(others[one]) for one in spread)}
    return sorted(chosen, key=lambda one: float(after[one]))


def stop(page: Page, gateway: GatewayProcess) -> None:
    """Stop the gateway as an operator would; anything but exit code 0 is a ``GatewayError``."""
    end = gateway.stop(_STOP_LIMIT_S)
    if end.exit_code != 0:
        raise gateway.failure(f"ended with exit code {end.exit_code} after SIGTERM")
    page.stopped(end.seconds)


def main(arguments: list[str] | None = None) -> int:
    """The command. 0: every claim held. 1: one did not, and the last lines say which."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.demo",
        description="Serve the flight model with online features, check every answer, roll out two versions.",
        epilog="Takes about a minute, the first time less than two. Uses 127.0.0.1 only.",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), metavar="DIR",
        help="where data, models and the store are kept (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--headrace", type=Path, default=own_headrace(), metavar="FILE",
        help="the command to serve with (default: beside this Python)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    page = Page()
    try:
        run(Headrace([str(options.headrace.absolute())], Place(options.folder.absolute())), page)
    except (
        CommandFailedError,
        DataMissingError,
        FeatureError,
        GatewayError,
        OSError,
        ScoresDifferError,
        StoreError,
    ) as error:
        page.failure(str(error))
        return 1
    except KeyboardInterrupt:
        page.failure("interrupted; the gateway is stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
