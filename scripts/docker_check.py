"""``make docker-check``: does what the Dockerfile's ``build-cpu`` and ``cpu`` stages do, without Docker.

The files that the Dockerfile copies are laid out in an empty folder, its RUN lines are run there, and the environment
that comes out must hold what serving needs and no more, serve a model, and pass the image's own health check. It must
never touch the checkout or its .venv. What only an engine can show (the base image, the user, the ports) it leaves to
tests/arch/test_dockerfile.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests import models
from loadtests.failures import BenchError
from loadtests.server_process import running
from scripts.dockerfile import Stage, ignore_patterns, is_ignored, read_stages

ROOT = Path(__file__).resolve().parents[1]
_STEP_LIMIT_S = 600
_UNWANTED = ("pip", "setuptools", "pytest", "ruff", "lightgbm", "tritonclient", "hatchling")


class DockerCheckError(Exception):
    """The image would not be what it should be."""


def main() -> int:
    """The command. 0: what can be checked without an engine is right."""
    stages = read_stages((ROOT / "Dockerfile").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="headrace-docker-check-") as folder:
        try:
            build = Path(folder, "build")
            lay_out(stages["checkout"], build)
            run_steps(stages["build-cpu"], build)
            check_packages(build / ".venv")
            shutil.rmtree(build / "gateway")  # the image takes .venv and leaves the sources behind
            check_serving(stages["cpu"], build / ".venv", Path(folder))
        except (BenchError, DockerCheckError, OSError, subprocess.SubprocessError) as error:
            print(f"docker-check: {error}", file=sys.stderr)
            return 1
    print("the steps of the cpu image work; no engine was asked")
    return 0


def lay_out(checkout: Stage, target: Path) -> None:
    """Copy what the stage copies, less what .dockerignore keeps back."""
    patterns = ignore_patterns((ROOT / ".dockerignore").read_text("utf-8"))
    for copy in checkout.all("COPY"):
        *sources, place = copy.words
        for source in sources:
            for file in _files(ROOT / source):
                path = file.relative_to(ROOT)
                if is_ignored(str(path), patterns):
                    continue
                into = target / place.strip("/")
                if not (ROOT / source).is_dir():
                    into /= file.name
                else:
                    into /= file.relative_to(ROOT / source)
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, into)


def run_steps(build: Stage, folder: Path) -> None:
    """Run the stage's RUN lines in ``folder``, with no environment of ours around them."""
    environment = _bare_environment()
    for step in build.all("RUN"):
        print(f"$ {step.rest}", flush=True)
        shell = ["/bin/sh", "-c", step.rest]
        done = subprocess.run(  # noqa: S603 - the Dockerfile's own lines
            shell, cwd=folder, env=environment, timeout=_STEP_LIMIT_S, check=False
        )
        if done.returncode:
            raise DockerCheckError(f"exit status {done.returncode} of: {step.rest}")


def check_packages(venv: Path) -> None:
    """The environment stands alone: nothing for building or testing in it, and compiled."""
    (packages,) = venv.glob("lib/python3*/site-packages")
    found = {path.name.partition("-")[0].lower() for path in packages.glob("*.dist-info")}
    if unwanted := found & set(_UNWANTED):
        raise DockerCheckError(f"the environment holds {', '.join(sorted(unwanted))}")
    if not list((packages / "gateway" / "__pycache__").glob("app.*.pyc")):
        raise DockerCheckError("gateway/ is not installed with its bytecode")
    size = sum(file.stat().st_size for file in _files(venv) if not file.is_symlink())
    print(f"{len(found)} packages, {size / 1e6:,.0f} MB", flush=True)


def check_serving(image: Stage, venv: Path, folder: Path) -> None:
    """Start the image's command on a model and free ports, and run its health check beside it."""
    repository = models.write_repository(folder / "models")
    command = [*image.last("ENTRYPOINT").words, *image.last("CMD").words]
    command = [str(repository) if word == "/models" else word for word in command]
    command[0] = str(venv / "bin" / command[0])
    ports = [f"--{front}-port=0" for front in ("http", "grpc", "admin")]
    core = min(os.sched_getaffinity(0))
    with running("headrace", [*command, *ports], core, folder / "logs") as server:
        host, port = server.address("admin")
        health = image.health_command()
        asked = [str(venv / "bin" / health[0]), *health[1:], "--url", f"http://{host}:{port}"]
        print(f"$ {' '.join(health)}", flush=True)
        said = subprocess.run(asked, env=_bare_environment(), timeout=30, check=False)  # noqa: S603
        if said.returncode:
            raise DockerCheckError(
                f"the health check ends with {said.returncode} beside a ready server"
            )
    said = subprocess.run(asked, timeout=30, check=False, stderr=subprocess.DEVNULL)  # noqa: S603
    if said.returncode != 1:
        raise DockerCheckError("the health check does not notice that the server is gone")


def _bare_environment() -> dict[str, str]:
    """No virtual environment; what the machine needs to reach its package source stays."""
    venv = str(ROOT / ".venv")
    path = [place for place in os.environ["PATH"].split(":") if not place.startswith(venv)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "HEADRACE_"))}
    return kept | {"PATH": ":".join(path)}


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main())
