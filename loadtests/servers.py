"""Decides which servers can be measured and the command line of each.

It must never give one of them an advantage: all see the same repository and the same core.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtests.failures import BenchError

Kind = Literal["headrace", "starlette", "http-echo", "grpc-aio", "grpc-echo"]
Protocol = Literal["http", "grpc"]

_BASELINES: dict[Kind, str] = {
    "starlette": "starlette_server",
    "grpc-aio": "grpc_aio_server",
    "http-echo": "http_echo_server",
    "grpc-echo": "grpc_echo_server",
}
_WITH_MODELS: tuple[Kind, ...] = ("headrace", "starlette", "grpc-aio")

TITLES: dict[Kind, str] = {
    "headrace": "Headrace",
    "starlette": "Starlette + uvicorn",
    "grpc-aio": "grpc.aio",
    "http-echo": "echo (httptools)",
    "grpc-echo": "echo (ngh2)",
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The servers of one bench, over one repository of models."""

    repository: Path
    headrace: Path | None

    def has(self, kind: Kind) -> bool:
        """Baselines are always there; the product may not be installed yet."""
        return kind != "headrace" or self.headrace is not None

    def command(self, kind: Kind) -> list[str]:
        """What to execute; each server picks free ports and prints them."""
        if kind == "headrace":
            if self.headrace is None:
                raise BenchError("the headrace command is not installed")
            ports = [f"--{front}-port=0" for front in ("http", "grpc", "admin")]
            return [str(self.headrace), "serve", "--models", str(self.repository), *ports]
        command = [sys.executable, "-m", f"loadtests.baselines.{_BASELINES[kind]}"]
        return command + (["--models", str(self.repository)] if answers_truly(kind) else [])


def answers_truly(kind: Kind) -> bool:
    """Whether the server runs the model, so that its answer can be checked."""
    return kind in _WITH_MODELS


def find_headrace(given: Path | None) -> Path | None:
    """The given command, the one beside this interpreter, or the one on the PATH."""
    if given is not None:
        if not given.is_file():
            raise BenchError(f"no headrace command at {given}")
        return given.resolve()
    beside = Path(sys.executable).parent / "headrace"
    if beside.is_file():
        return beside
    found = shutil.which("headrace")
    return Path(found) if found else None
