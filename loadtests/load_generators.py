"""Decides where the closed-loop load generators come from: wrk and h2load.

First a copy unpacked earlier below `.bench/`, then one on the PATH, then Debian's packages,
unpacked without being installed, with the shared libraries that the machine lacks. It must never
install anything into the system, and never fetch from anywhere but the machine's package source.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.failures import BenchError
from loadtests.progress import say

_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
_LIBRARIES = {
    "libluajit-5.1.so.2": "libluajit-5.1-2",
    "libjemalloc.so.2": "libjemalloc2",
    "libev.so.4": "libev4",
    "libnghttp2.so.14": "libnghttp2-14",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
}
_FETCH_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """A program and the environment in which it finds its libraries."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, arguments: list[str], core: int, timeout: float) -> str:
        """Runs it on its core and returns what it printed; an error exit is an error."""
        command = ["taskset", "--cpu-list", str(core), str(self.path), *arguments]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise BenchError(f"{self.path.name} did not end within {timeout:.0f} s") from late
        if done.returncode:
            raise BenchError(f"{self.path.name} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def find(name: str, folder: Path) -> LoadGenerator:
    """The generator, fetched below `folder` when the machine has none."""
    root = folder / "root"
    unpacked = root / "usr" / "bin" / name
    installed = shutil.which(name)
    if not unpacked.is_file() and installed:
        return LoadGenerator(Path(installed))
    if not unpacked.is_file():
        say(f"{name} is not installed: unpacking Debian's {_PACKAGES[name]} below {folder.name}/")
        unpack_package(_PACKAGES[name], folder)
    # Each package can bring new needs, so look again until nothing is missing.
    for _ in range(len(_LIBRARIES) + 1):
        missing = _missing_libraries(unpacked, root)
        if not missing:
            return LoadGenerator(unpacked, _environment(root))
        for library in missing:
            if library not in _LIBRARIES:
                raise BenchError(f"{name} needs {library}: {_advice(name)}")
            unpack_package(_LIBRARIES[library], folder)
    raise BenchError(f"the libraries of {name} could not be completed: {_advice(name)}")


def _environment(root: Path) -> dict[str, str]:
    places = [str(place) for place in sorted((root / "usr" / "lib").glob("*-linux-gnu*"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join(places + ([before] if before else []))}


def _missing_libraries(binary: Path, root: Path) -> list[str]:
    listing = subprocess.run(
        ["ldd", str(binary)],
        env={**os.environ, **_environment(root)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    lines = [line.split() for line in listing.splitlines()]
    return [words[0] for words in lines if words[-2:] == ["not", "found"]]


def unpack_package(package: str, folder: Path) -> None:
    """Unpacks one of Debian's packages below `folder`/root, without installing it."""
    store = folder / "packages"
    store.mkdir(parents=True, exist_ok=True)
    problem = _download(package, store)
    if problem and os.geteuid() == 0:
        # A new machine has no package lists yet; only root may fetch them.
        subprocess.run(
            ["apt-get", "update"], capture_output=True, timeout=_FETCH_TIMEOUT_S, check=False
        )
        problem = _download(package, store)
    archives = sorted(store.glob(f"{package}_*.deb"))
    if problem or not archives:
        raise BenchError(f"could not fetch {package}: {problem}\n{_advice(package)}")
    subprocess.run(["dpkg", "-x", str(archives[-1]), str(folder / "root")], timeout=60, check=True)


def _download(package: str, store: Path) -> str:
    """Returns what went wrong, or nothing."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "this machine has no apt-get and dpkg"
    done = subprocess.run(
        ["apt-get", "download", package],
        cwd=store,
        capture_output=True,
        text=True,
        timeout=_FETCH_TIMEOUT_S,
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


def _advice(name: str) -> str:
    return f"install {_PACKAGES.get(name, name)} with the system's package manager and run again"
