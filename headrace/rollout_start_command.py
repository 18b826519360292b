"""``headrace rollout start``: its options, and what it says before and after.

Decides how options become wishes, and what is shown of what was started. What is missing in them is for
``headrace.rollout_starting`` to find. It must never hide what it took for granted: champion, salt and stickiness are
said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace import rollout_starting
from headrace.command_line import refuse
from headrace.rollout_display import proposal_lines, told
from headrace.rollout_options import (
    AsJson,
    Model,
    Reason,
    TokenFile,
    Url,
    Watch,
    asking,
    note,
    say_next,
)
from headrace.rollout_proposal import Wishes, WrittenError, percent_of, seconds_of, steps_of
from headrace.rollout_refusals import next_command
from headrace.rollout_watching import watch_rollout
from rollout.plan import Plan, encode

To = Annotated[
    str | None, typer.Option(show_default=False, help="The version to roll out: the candidate.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        show_default=False,
        help="The version that traffic falls back to: the champion. \\[default: what answers now]",
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Percentages that the candidate goes up by. After the last one it is promoted and has all traffic, "
        "with or without a 100 at the end. \\[default: 1,5,25,50,100]",
    ),
]
MinTime = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="How long every step lasts at least, and copies before the first: 30s, 5m, 2h. \\[default: 5m]",
    ),
]
MinSamples = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="Requests that the candidate answers in every step at least, and copies before the first. "
        "\\[default: 1000, and 500 copies]",
    ),
]
StickyBy = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="What keeps users with one version: header:NAME, parameter:NAME or input:NAME. "
        "\\[default: request_id, which keeps nobody]",
    ),
]
ShadowPercent = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        show_default=False,
        help="First send the candidate copies of so many requests, whose answers nobody gets.",
    ),
]
SloMs = Annotated[
    float | None,
    typer.Option(
        show_default=False, help="Answers that take longer count as slow. \\[default: 100]"
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        help="Proposal in TOML, or in JSON if its name ends in .json; options overrule it.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Let the server check everything, and change nothing.")
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Also in the place of a rollout that is running: its candidate loses its traffic.",
    ),
]


def start(
    model: Model,
    to: To = None,
    from_: From = None,
    steps: Steps = None,
    min_time: MinTime = None,
    min_samples: MinSamples = None,
    sticky: StickyBy = None,
    shadow: ShadowPercent = None,
    slo_ms: SloMs = None,
    file: File = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    replace: Replace = False,
    watch: Watch = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Roll a version out: step by step, as long as the guardrails are fine.

    Try it:  headrace rollout start flights --to 2 --steps 1,5,25,50,100

    Slower, with users kept where they are, and followed until the end:

    headrace rollout start flights --to 2 --min-time 1h --sticky header:x-user-id --watch

    Without --to and --file it starts the draft that is there.
    """
    try:
        wishes = Wishes(
            champion=from_,
            candidate=to,
            steps_percent=None if steps is None else steps_of(steps),
            min_time_s=None if min_time is None else seconds_of(min_time, "--min-time"),
            min_samples=min_samples,
            sticky=sticky,
            shadow_percent=None if shadow is None else percent_of(shadow, "--shadow"),
            slo_ms=slo_ms,
        )
        document = None if file is None else rollout_starting.document_in(file)
        _refuse_contradictions(model, wishes, document, dry_run=dry_run, watch=watch)
        with asking(url, token_file, model) as use:
            if to is None and document is None:
                plan = rollout_starting.start_draft(use, reason or "")
            else:
                plan = rollout_starting.submit(
                    use, wishes, document or {}, reason=reason, dry_run=dry_run, may_replace=replace
                )
            if not (watch and as_json):  # then every line is a status
                _show(plan, dry_run=dry_run, as_json=as_json)
            if watch:
                began, shown = plan.began_revision, plan.revision
                raise typer.Exit(watch_rollout(use.admin, model, began, shown, as_json=as_json))
    except WrittenError as error:
        for fault in error.faults:
            note(fault)
        refuse(str(error))


def _refuse_contradictions(
    model: str, wishes: Wishes, document: object, *, dry_run: bool, watch: bool
) -> None:
    if dry_run and watch:
        raise WrittenError(
            "--dry-run starts nothing that --watch could follow: leave one of them out"
        )
    if wishes.candidate is None and document is None and (dry_run or wishes != Wishes()):
        raise WrittenError(
            f"name the version to roll out: headrace rollout start {model} --to VERSION"
        )


def _show(plan: Plan, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(encode(plan).decode())
        return
    for line in proposal_lines(plan):
        typer.echo(line)
    if dry_run:
        typer.echo(f"dry run, nothing was changed; it would be: {told(plan)}")
        say_next("the same command without --dry-run")
        return
    typer.echo(told(plan))
    say_next(next_command(plan))
