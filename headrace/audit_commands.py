"""``headrace audit``: tells whether the audit log is whole, and shows its last records. Thin:
``foundation/audit_verifying.py`` knows how.

Nothing here may write to the log. What a record says is shown with its control characters made visible: a reason is
text from a caller, and must not steer a terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from foundation.audit import DEFAULT_FILE, AuditError, AuditRecord
from foundation.audit_record import LineError
from foundation.audit_verifying import MAX_LAST_RECORDS, Verification, last_lines, verify
from headrace.command_line import fail, refuse
from headrace.progress_display import ProgressDisplay

app = typer.Typer(
    help="Verify and show the audit log: who changed what is rolled out, when and why.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None,
    typer.Argument(show_default=False, help=f"The log. \\[default: {DEFAULT_FILE} here]"),
]


@app.command("verify")
def verify_log(
    file: File = None,
    expect_head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            show_default=False,
            help="A head's hash that an earlier verify printed and that you kept elsewhere: the log must contain it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Read the whole log and name the first broken place. Exit code 0: sound. 1: broken. 2: it could not be read.

    Try it:  headrace audit verify audit.jsonl

    Each record holds the hash of the one before, so a change, a missing line or a moved one shows. Two things the file
    alone cannot show: that whole lines were cut off its end, and that somebody wrote everything from some line on anew.
    Keep the head that this prints on another machine, and check against it later; the log may have grown meanwhile:

    headrace audit verify audit.jsonl --expect-head HASH

    A last line without its end is what a crash leaves, and a cut in the middle of it. It is told, and is no error: the
    next record says that it is torn.
    """
    target = file or Path(DEFAULT_FILE)
    try:
        with ProgressDisplay("verifying") as progress:
            done = verify(target, expect_head=_hash(expect_head), progress=progress)
    except AuditError as error:
        refuse(str(error))
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
    if done.finding is not None:
        fail(
            f"{target}: line {done.finding.line} {done.finding.problem}; the {done.records} records before it are sound"
        )
    if not as_json:
        _say(target, done)


@app.command()
def show(
    file: File = None,
    last: Annotated[
        int, typer.Option(min=1, max=MAX_LAST_RECORDS, help="How many records, the latest.")
    ] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole records, one a line, for scripts.")
    ] = False,
) -> None:
    """Show the last records, the latest at the bottom. Exit code 1: a line among them is broken.

    Try it:  headrace audit show audit.jsonl --last 5

    It looks at each line by itself; whether the log is whole tells: headrace audit verify
    """
    target = file or Path(DEFAULT_FILE)
    broken = ""
    try:
        for line in last_lines(target, last):
            if isinstance(line.content, LineError):
                problem = f"the line at byte {line.offset_bytes} {line.content}"
                typer.echo(f"headrace: {target}: {problem}", err=True)
                broken = broken or problem
            elif as_json:
                typer.echo(line.content.text)
            else:
                typer.echo(_shown(line.content.record))
    except AuditError as error:
        refuse(str(error))
    if broken:
        fail(f"{target}: not all lines could be shown; look with: headrace audit verify {target}")


def _hash(text: str | None) -> str | None:
    if text is None:
        return None
    lowered = text.strip().lower()
    if len(lowered) != 64 or set(lowered) - set("0123456789abcdef"):
        refuse(f"--expect-head '{text}' is no hash: give the 64 hex digits that verify prints")
    return lowered


def _say(target: Path, done: Verification) -> None:
    typer.echo(
        f"{target}: {_records(done.records)}, sound; keep the head elsewhere to see a cut end"
    )
    if done.torn_lines:
        named = ", ".join(str(line) for line in done.torn_lines_named)
        more = "" if done.torn_lines == len(done.torn_lines_named) else ", …"
        typer.echo(
            f"a crash tore a line {done.torn_lines} times, as records say: lines {named}{more}"
        )
    typer.echo(f"head: {done.head}")
    if done.torn_tail_bytes:
        typer.echo(
            f"headrace: {target}: line {done.records + 1} has no end ({done.torn_tail_bytes} bytes): a crash tore it, "
            "or the end was cut off; with --expect-head you see which",
            err=True,
        )


def _records(count: int) -> str:
    return f"{count:,} record{'s' * (count != 1)}"


def _shown(record: AuditRecord) -> str:
    role = f" ({record.role})" if record.role else ""
    reason = f": {record.reason}" if record.reason else ""
    text = (
        f"{record.seq:>6}  {record.at:%Y-%m-%d %H:%M:%S}Z  {record.author}{role}  {record.action}  "
        f"{record.target}{reason}"
    )
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
