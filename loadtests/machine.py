"""Decides what a result says about where it was measured.

It must never write anything that names a person, a host or a folder of the machine.
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "uvloop",
    "uvicorn",
    "httptools",
    "starlette",
    "ngh2",
    "grpcio",
    "protobuf",
    "msgspec",
    "orjson",
)


def describe() -> dict[str, str]:
    """CPU, cores, memory, kernel, Python."""
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def package_versions() -> dict[str, str]:
    """The packages that the measured servers are made of."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def revision() -> str:
    """The git revision, and whether files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "no commit yet"
    return head + (" with uncommitted changes" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
