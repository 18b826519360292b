"""Decides where perf_analyzer comes from: the load generator of the Triton project.

Its own wheel on PyPI asks for a newer C library than Debian 12 has, and pip then quietly installs
a placeholder instead. The binary inside an older wheel of tritonclient runs there, beside two
libraries that it was linked with. All of it is unpacked below `.bench/`, apart from the
environment of the project. It must never install anything into the system or into that
environment, and never pass the placeholder off as the program.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator, unpack_package
from loadtests.progress import say

WHEELS = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")
"""The program, and the CUDA library that it loads even where there is no GPU."""

_NAME = "perf_analyzer"
_BASE64, _BASE64_LIBRARY = "libb64-0d", "libb64.so.0d"
_FETCH_TIMEOUT_S = 300
_SAYS_VERSION = "Perf Analyzer Version "


def find(folder: Path) -> LoadGenerator:
    """The program, fetched below `folder` when neither that nor the PATH has it."""
    wheels, root = folder / "perf_analyzer", folder / "root"
    unpacked = wheels / "bin" / _NAME
    installed = shutil.which(_NAME)
    if not unpacked.is_file() and installed:
        return LoadGenerator(Path(installed))
    if not unpacked.is_file():
        say(f"unpacking {_NAME} from {WHEELS[0]} below {folder.name}/")
        _unpack_wheels(wheels)
    if not _base64_libraries(root) and not _loads(_BASE64_LIBRARY):
        unpack_package(_BASE64, folder)
    unpacked.chmod(0o755)
    places = [wheels / "nvidia" / "cuda_runtime" / "lib"]
    places += sorted({library.parent for library in _base64_libraries(root)})
    before = os.environ.get("LD_LIBRARY_PATH")
    path = [str(place) for place in places] + ([before] if before else [])
    return LoadGenerator(unpacked, {"LD_LIBRARY_PATH": ":".join(path)})


def version(tool: LoadGenerator) -> str:
    """What it says of itself; whatever says something else is not perf_analyzer."""
    try:
        done = subprocess.run(
            [str(tool.path), "--version"],
            env={**os.environ, **tool.environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise BenchError(f"{tool.path} does not run: {problem}") from problem
    said = (done.stdout + done.stderr).strip()
    if not said.startswith(_SAYS_VERSION):
        raise BenchError(
            f"{tool.path} is not perf_analyzer, or lacks a library; it says: {said[:300]}\n"
            "if it came from `pip install perf-analyzer`, remove it and run again"
        )
    return said.removeprefix(_SAYS_VERSION).split()[0]


def _unpack_wheels(target: Path) -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise BenchError("perf_analyzer is published for Linux on x86-64 only")
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    elif shutil.which("uv"):
        command = ["uv", "pip", "install", "--quiet", "--python", sys.executable]
    else:
        raise BenchError("this Python has no pip: python -m ensurepip, and run again")
    command += ["--no-deps", "--target", str(target), *WHEELS]
    # Settings of the person's own, which would send the packages elsewhere.
    environment = {k: v for k, v in os.environ.items() if k not in {"PIP_TARGET", "PIP_PREFIX"}}
    environment |= {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_FETCH_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"could not fetch {' and '.join(WHEELS)}:\n{done.stderr.strip()}")


def _base64_libraries(root: Path) -> list[Path]:
    return list((root / "usr" / "lib").glob(f"*-linux-gnu*/{_BASE64_LIBRARY}"))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
