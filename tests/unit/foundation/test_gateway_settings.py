"""The gateway's own sections, read by the loader that every process uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundation.settings import SettingsError, known_keys, load
from gateway.settings import GatewaySettings, RepositorySettings, ServerSettings


def loaded(environment: dict[str, str], file: Path | None = None) -> GatewaySettings:
    return load(GatewaySettings, file=file, environment=environment, overrides={})


def every_key() -> list[tuple[str, str]]:
    return [(section, key) for section, keys in known_keys(GatewaySettings).items() for key in keys]


def default(section: str, key: str) -> Any:
    return getattr(getattr(GatewaySettings(), section), key)


def test_variables_of_two_keys_never_meet() -> None:
    variables = [f"{section}_{key}".upper() for section, key in every_key()]
    assert len(variables) == len(set(variables))


@pytest.mark.parametrize(("section", "key"), every_key())
def test_every_default_can_be_written_as_a_variable(section: str, key: str) -> None:
    variable = f"HEADRACE_{section}_{key}".upper()
    effective = loaded({variable: str(default(section, key)).lower()})
    assert effective == GatewaySettings()


def test_every_default_can_be_written_in_a_file(tmp_path: Path) -> None:
    lines: list[str] = []
    for section, keys in known_keys(GatewaySettings).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(default(section, key))}" for key in keys]
    file = tmp_path / "headrace.toml"
    file.write_text("\n".join(lines))
    assert loaded({}, file) == GatewaySettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_SERVER_HTTP_PORT", "65536"),
        ("HEADRACE_SERVER_GRPC_PORT", "-1"),
        ("HEADRACE_HTTP_MAX_BODY_BYTES", "0"),
        ("HEADRACE_HTTP_KEEP_ALIVE_S", "-0.5"),
        ("HEADRACE_HTTP_KEEP_ALIVE_S", "nan"),
        ("HEADRACE_DRAIN_TIMEOUT_S", "inf"),
        ("HEADRACE_GRPC_STREAM_WINDOW_BYTES", "1024"),
        ("HEADRACE_ADMISSION_MAX_REQUESTS", "0"),
        ("HEADRACE_ADMISSION_MAX_BYTES", "-1"),
        ("HEADRACE_TELEMETRY_LOG_LEVEL", "loud"),
        ("HEADRACE_GRPC_RESET_PER_S", "nan"),
    ],
)
def test_values_that_cannot_work_are_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        loaded({variable: value})


@pytest.mark.parametrize(("workers", "threads"), [(1, 3), (2, 1), (8, 1)])
def test_no_threads_means_that_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int, threads: int
) -> None:
    monkeypatch.setattr("gateway.settings.os.sched_getaffinity", lambda pid: {0, 1, 2})
    server = ServerSettings(workers=workers)
    assert GatewaySettings(server=server).intra_op_threads == threads
    chosen = RepositorySettings(intra_op_threads=7)
    assert GatewaySettings(server=server, repository=chosen).intra_op_threads == 7
