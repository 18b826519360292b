"""``headrace rollout`` called as from a shell, at a given admin port."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from headrace.__main__ import app
from tests.support.rollout_admin_port import RolloutAdminPort

READY = {"1": "READY", "2": "READY"}
STEER = ("pause", "step", "promote", "rollback", "abort")


def rollout(port: RolloutAdminPort | str, *words: str, code: int = 0, **environment: str) -> Result:
    """The command's result; it must end with ``code``."""
    url = port if isinstance(port, str) else port.url
    result = CliRunner().invoke(app, ["rollout", *words, "--admin-url", url], env=environment)
    assert result.exit_code == code, result.output
    return result


def started(port: RolloutAdminPort, *words: str, code: int = 0) -> Result:
    """A rollout of version 2 of model flights."""
    return rollout(port, "start", "flights", "--to", "2", *words, code=code)


def told(result: Result) -> str:
    """The sentence and the next command of a refusal, without anything else."""
    assert result.stdout == ""
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("headrace: ")
    assert last.startswith("next: ")
    return result.stderr
