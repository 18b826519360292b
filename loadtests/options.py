"""Decides which choices the bench command offers, which of them all commands share, and what nothing said means.

It must never start anything: `--help` works on a machine that cannot run a bench.
"""

import argparse
from pathlib import Path

from loadtests import arrivals, rows

_DESCRIPTION = """Measures the gateway beside honest baselines and bare limits.

The server runs on one core and the load on another. Rows are interleaved over rounds and each
figure is the median of its rounds. Writes a Markdown page and a JSON file of raw numbers."""

_EPILOG = """rows:
{rows}

exit status:
  0 all rows measured (promises may be short)    1 a row failed, or the bench could not run
  2 a wrong argument                             3 with --strict: a promise is not kept

examples:
  python -m loadtests.bench
  python -m loadtests.bench --rows 'http-32-*' --rounds 1 --seconds 2
  python -m loadtests.bench --rows 'open-*-headrace' --what overload --strict
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    names = "\n".join(f"  {name}" for name in rows.NAMES)
    made = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(rows=names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = made.add_argument_group("what is measured")
    what.add_argument(
        "--rows", nargs="+", default=[], metavar="PATTERN", help="names or patterns (all rows)"
    )
    what.add_argument("--list", action="store_true", help="print the rows and stop")
    what.add_argument("--rounds", type=_count, default=3, help="interleaved rounds (%(default)s)")
    what.add_argument(
        "--seconds", type=_duration, default=4.0, help="load per closed-loop row (%(default)s)"
    )
    what.add_argument(
        "--open-seconds", type=_duration, default=8.0, help="per open-loop row (%(default)s)"
    )
    what.add_argument(
        "--arrivals", choices=arrivals.PATTERNS, default="poisson", help="open loop (%(default)s)"
    )
    what.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each row, wait at most this long for idle cores (%(default)s)",
    )
    what.add_argument(
        "--attempts",
        type=_count,
        default=1,
        help="measure a row again while others use the cores; keep the least disturbed (%(default)s)",
    )
    add_place(made)
    result = made.add_argument_group("what becomes of the result")
    result.add_argument(
        "--what", default="bench", help="names the result: <date>-<what>.md (%(default)s)"
    )
    result.add_argument("--output", type=Path, metavar="FILE.md", help="instead of that name")
    result.add_argument("--strict", action="store_true", help="a missed promise is an error")
    return made


def add_place(made: argparse.ArgumentParser) -> None:
    """The choices of every command: cores, the server's program, the folder for what is made."""
    where = made.add_argument_group("where it runs")
    where.add_argument("--server-core", type=int, default=0, help="(%(default)s)")
    where.add_argument("--load-core", type=int, default=1, help="(%(default)s)")
    where.add_argument(
        "--headrace", type=Path, metavar="PATH", help="the command (beside this Python, or PATH)"
    )
    where.add_argument(
        "--work", type=Path, default=Path(".bench"), help="models, tools, logs (%(default)s)"
    )


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError("between 1 and 100")
    return number


def _duration(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 600:
        raise argparse.ArgumentTypeError("between 1 and 600 seconds")
    return seconds
