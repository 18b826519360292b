"""Decides what all measurements of one bench share: cores, files, load generators, payloads.

Made once before the first round. It must never change while rounds run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from loadtests import json_payload, models, protobuf_payload
from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator, find
from loadtests.servers import Catalogue


@dataclass(frozen=True, slots=True)
class Workbench:
    """Where servers and clients run, and with what."""

    folder: Path
    servers: Catalogue
    server_core: int
    load_core: int
    wrk: LoadGenerator
    h2load: LoadGenerator
    answers: dict[str, float]

    @property
    def logs(self) -> Path:
        """What servers print."""
        return self.folder / "logs"

    def http_body(self, model: str) -> Path:
        """The file that wrk posts."""
        return self.folder / f"infer-{model}.json"

    def grpc_body(self, model: str) -> Path:
        """The file that h2load posts: prefix and message."""
        return self.folder / f"infer-{model}.grpc"

    def write_bodies(self, model: str, rows: int = 1) -> None:
        """Writes both files of a model, with so many rows in a call."""
        message = protobuf_payload.infer_request(model, rows)
        self.http_body(model).write_bytes(json_payload.infer_body(rows=rows))
        self.grpc_body(model).write_bytes(protobuf_payload.framed(message))


def claim_cores(server_core: int, load_core: int) -> str:
    """Checks both cores and moves this process to the one of the load; says who runs where."""
    usable = os.sched_getaffinity(0)
    if server_core == load_core or not {server_core, load_core} <= usable:
        raise BenchError(
            f"server and load need a core each; asked for {server_core} and {load_core}, "
            f"this process may use {sorted(usable)}"
        )
    os.sched_setaffinity(0, {load_core})
    return f"Server on core {server_core}, load on core {load_core}"


def prepare(folder: Path, headrace: Path | None, server_core: int, load_core: int) -> Workbench:
    """Builds models and payload files, and finds the load generators."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = models.write_repository(folder / "models")
    names = (models.TINY, models.HEAVY)
    bench = Workbench(
        folder=folder,
        servers=Catalogue(repository, headrace),
        server_core=server_core,
        load_core=load_core,
        wrk=find("wrk", folder),
        h2load=find("h2load", folder),
        answers={n: models.expected_answer(models.model_path(repository, n)) for n in names},
    )
    for name in names:
        bench.write_bodies(name)
    return bench
