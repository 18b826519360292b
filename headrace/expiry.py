"""When a key or a token ends, as people write it: a day, a moment, or a time from now.

Decides that a day lasts until its end and that moments are in UTC unless they say otherwise. It must never guess: what
it cannot read ends the command.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from headrace.command_line import refuse

HELP = "Last day (2027-06-30), moment in UTC (2027-06-30T12:00), or time from now (90d, 12h)."

_FROM_NOW = re.compile(r"(\d{1,5})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}


def moment(text: str, now: datetime) -> datetime:
    """The moment that ``text`` means at ``now``, with a time zone."""
    if from_now := _FROM_NOW.fullmatch(text):
        return (now + int(from_now[1]) * _UNITS[from_now[2]]).replace(microsecond=0)
    try:
        if len(text) == len("2027-06-30"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC).replace(microsecond=0)
        found = datetime.fromisoformat(text)
    except ValueError:
        refuse(
            f"--expires '{text}' is neither a day such as 2027-06-30, nor a moment such as 2027-06-30T12:00, "
            "nor a time from now such as 90d"
        )
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
