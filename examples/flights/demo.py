"""``python -m examples.flights.demo``: real flights, a real gateway, every claim checked.

Decides what a newcomer sees in the first minute, and what must be true for the demo to end well:
all fronts answer what LightGBM answers, wrong input is explained, the gateway stops by itself with
exit code 0. It must never leave a process behind, wait without a limit, or print a figure that it
did not just measure.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

from tritonclient.utils import InferenceServerException

from examples.flights.bundle import Bundle
from examples.flights.callers import (
    FIRST_VERSION_PATH,
    PATH,
    RestByHand,
    TritonGrpc,
    TritonRest,
    UnexpectedAnswerError,
    request_text,
)
from examples.flights.claims import (
    WrongAnswerError,
    check_agreement,
    check_refusals,
    check_versions,
    measure_front,
)
from examples.flights.demo_page import Page, shown_path
from examples.flights.gateway_process import GatewayError, GatewayProcess, running
from examples.flights.questions import Questions, prepare_questions
from examples.flights.stopwatch import TooSlowError
from examples.flights.tables import DataMissingError
from examples.flights.train import ScoresDifferError

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0
_FAILURES_WHILE_ASKING = (
    OSError,
    HTTPException,
    InferenceServerException,
    TooSlowError,
    UnexpectedAnswerError,
    WrongAnswerError,
)


def run(models: Path, headrace: Path, page: Page) -> None:
    """The whole demo, top to bottom. Raises the errors that ``main`` explains."""
    page.title()
    page.section("The model")
    bundle = Bundle(models)
    questions = prepare_questions(
        bundle, say_current=f"  {bundle.folder} is there, trained from the same data and code"
    )
    page.section("The gateway")
    serve = [str(headrace), "serve", "--models", str(models)]
    anywhere = ["--http-port", "0", "--grpc-port", "0", "--admin-port", "0"]
    page.command(" ".join([shown_path(headrace), *serve[1:], *anywhere]))
    started = time.monotonic()
    with running([*serve, *anywhere]) as gateway:
        addresses = gateway.wait_until_ready(_START_LIMIT_S)
        page.started(time.monotonic() - started, addresses)
        try:
            ask(page, addresses["http"], addresses["grpc"], questions)
        except _FAILURES_WHILE_ASKING as error:
            raise gateway.failure(f"did not answer as it should: {error or repr(error)}") from error
        page.section("The end")
        stop(page, gateway)
    request = models.parent / "request.json"
    request.write_text(request_text(questions.rows[:1]) + "\n", "utf-8")
    urls = [f"localhost:8000{path}" for path in (PATH, FIRST_VERSION_PATH)]
    page.by_hand(" ".join([shown_path(headrace), *serve[1:]]), urls, request)


def ask(page: Page, http: str, grpc: str, questions: Questions) -> None:
    """Everything that is asked of the running gateway."""
    with (
        closing(RestByHand(http)) as by_hand,
        closing(TritonRest(http)) as rest,
        closing(TritonGrpc(grpc)) as stub,
    ):
        page.section("Flights it has never seen")
        chosen = questions.from_low_to_high_risk()
        chances = [float(by_hand.ask(questions.rows[[one]])[0]) for one in chosen]
        page.flights(questions.year.log, questions.position[chosen], chances)
        text = request_text(questions.rows[chosen[:1]])
        page.exchange(text, by_hand.post(PATH, text)[1])

        page.section("Three ways to ask, one answer")
        fronts = [measure_front(caller, questions) for caller in (by_hand, rest, stub)]
        page.fronts(fronts)
        page.agreement(check_agreement(fronts))

        page.section("Two versions, and how good their answers are")
        page.judgements(check_versions(stub, questions))

        page.section("When the input is wrong")
        for refusal in check_refusals(by_hand, stub, questions.rows):
            page.refusal(refusal)


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
        description="Serve the flight model, ask it over REST and gRPC, check every answer.",
        epilog="Takes about 15 seconds, the first time about 30. Uses 127.0.0.1 only.",
    )
    parser.add_argument(
        "--models", type=Path, default=Path(".demo/models"), metavar="DIR",
        help="model repository, trained into if it is empty (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--headrace", type=Path, default=Path(sys.executable).with_name("headrace"), metavar="FILE",
        help="the command to serve with (default: beside this Python)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    page = Page()
    try:
        run(options.models, options.headrace, page)
    except (DataMissingError, GatewayError, OSError, ScoresDifferError) as error:
        page.failure(str(error))
        return 1
    except KeyboardInterrupt:
        page.failure("interrupted; the gateway is stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
