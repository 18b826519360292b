"""``headrace rollout``: shows rollouts, follows them, and steers them by hand, through the admin port.

Decides what is printed, and that the way back is not stopped by a step which the controller takes meanwhile. It must
never decide anything about weights: the server and its controller do, and refuse what makes no sense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from headrace.command_line import refuse
from headrace.rollout_asking import RefusedError, RolloutAdmin
from headrace.rollout_display import console, history_table, listing, status_view, told
from headrace.rollout_options import (
    AsJson,
    Model,
    Reason,
    TokenFile,
    Url,
    Watch,
    asking,
    reason_for,
    say_next,
)
from headrace.rollout_refusals import next_command
from headrace.rollout_start_command import start
from headrace.rollout_watching import watch_rollout
from rollout.plan import UNDER_WAY, Plan, encode

_WAY_BACK = frozenset({"rollback", "abort"})

app = typer.Typer(
    help="Bring a new version of a model into use step by step, watched, and taken back when it does harm.",
    no_args_is_help=True,
)

app.command()(start)


@app.command()
def status(
    model: Annotated[
        str | None, typer.Argument(show_default=False, help="The model's name. \\[default: all]")
    ] = None,
    watch: Watch = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show where a rollout stands and what keeps it there; without a model, all of them in short.

    Try it:  headrace rollout status flights --watch

    "planned" is the share that a version should have, "measured" what it had in the current step. The verdicts are
    fine, HARMFUL (it is rolled back) or not yet (too little was seen).
    """
    if model is None and watch:
        refuse("--watch follows one rollout: name its model")
    with asking(url, token_file, model) as use:
        if model is None:
            _list(use.admin, as_json=as_json)
        elif watch:
            raise typer.Exit(watch_rollout(use.admin, model, None, 0, as_json=as_json))
        else:
            seen = use.admin.status(model)
            if as_json:
                _print_json(seen)
                return
            console().print(status_view(seen))
            say_next(next_command(seen.plan))


@app.command()
def history(
    model: Model, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show the changes of a model's rollouts: when, what, by whom and why. The newest is at the bottom.

    Try it:  headrace rollout history flights
    """
    with asking(url, token_file, model) as use:
        entries = use.admin.history(model)
        if as_json:
            _print_json(entries)
            return
        console().print(history_table(entries))


@app.command()
def pause(
    model: Model,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Stop at the present weights. Harm is still watched for, and still rolled back.

    Try it:  headrace rollout pause flights --reason "the feature store is being moved"
    """
    _steer(model, "pause", reason_for("pause", reason), url, token_file, as_json=as_json)


@app.command()
def resume(
    model: Model,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Go on after a pause, or after the rollout held. The step's time begins anew; what was counted stays.

    Try it:  headrace rollout resume flights
    """
    _steer(model, "resume", reason or "", url, token_file, as_json=as_json)


@app.command()
def step(
    model: Model,
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[N]",
            min=1,
            show_default=False,
            help="Which, from 1. \\[default: the next one]",
        ),
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Go to a step by hand, up or down. It begins anew, and so does what counts for it.

    Try it:  headrace rollout step flights 2 --reason "back to 5 % over the weekend"
    """
    why = reason_for("step", reason)
    _steer(model, "step", why, url, token_file, as_json=as_json, step_number=number)


@app.command()
def promote(
    model: Model,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Give the candidate all traffic now, whatever steps are left. Where tokens are asked for, it takes an approver's.

    Try it:  headrace rollout promote flights --reason "checked by hand, see the report of May 3rd"
    """
    _steer(model, "promote", reason_for("promote", reason), url, token_file, as_json=as_json)


@app.command()
def rollback(
    model: Model,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Give all traffic back to the champion at once, also after a promotion.

    Try it:  headrace rollout rollback flights --reason "customers complain"

    If the controller moves the rollout at the same moment, it is rolled back all the same.
    """
    _steer(model, "rollback", reason_for("roll back", reason), url, token_file, as_json=as_json)


@app.command()
def abort(
    model: Model,
    reason: Reason = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Put a rollout away that is not wanted any more: all traffic goes to the champion.

    Try it:  headrace rollout abort flights --reason "version 3 comes instead"
    """
    _steer(model, "abort", reason_for("abort", reason), url, token_file, as_json=as_json)


# ---- what they have in common ------------------------------------------------------------------------------


def _steer(
    model: str,
    event: str,
    reason: str,
    url: str | None,
    token_file: Path | None,
    *,
    as_json: bool,
    step_number: int | None = None,
) -> None:
    with asking(url, token_file, model) as use:
        read = use.read = use.admin.plan(model)
        if event == "step" and step_number is None:
            step_number = _next_step(read)
        try:
            plan = use.admin.cause(
                model, event, revision=read.revision, reason=reason, step=step_number
            )
        except RefusedError as error:
            now = error.current
            if not (error.status == 412 and event in _WAY_BACK and now and _still_runs(read, now)):
                raise
            # The way back is right at any weight: a step that the controller took meanwhile is no reason to ask again.
            plan = use.admin.cause(model, event, revision=now.revision, reason=reason)
    if as_json:
        typer.echo(encode(plan).decode())
        return
    typer.echo(told(plan))
    say_next(next_command(plan))


def _still_runs(read: Plan, now: Plan) -> bool:
    return now.began_revision == read.began_revision and now.state in UNDER_WAY


def _next_step(plan: Plan) -> int:
    if plan.steps and plan.is_last_step:
        refuse(
            f"{plan.model} is at its last step: what follows is headrace rollout promote {plan.model}; "
            "or name the step"
        )
    return plan.step + 2  # from 1, and one further


def _list(admin: RolloutAdmin, *, as_json: bool) -> None:
    rollouts = admin.listed()
    if as_json:
        _print_json(rollouts)
        return
    if not rollouts:
        typer.echo("no model has a rollout")
        say_next("headrace rollout start MODEL --to VERSION --dry-run")
        return
    console().print(listing(rollouts))
    say_next(f"headrace rollout status {rollouts[0].model}")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(json.loads(msgspec.json.encode(value)), indent=2))
