"""Decides which troubles are the bench's own words rather than a traceback.

It must never be used to soften a result: a row that answered errors is a failed row.
"""


class BenchError(Exception):
    """The bench cannot go on, and the text says what the person can do about it."""


class RowError(BenchError):
    """One row's load met errors, so its figures would be about something else."""
