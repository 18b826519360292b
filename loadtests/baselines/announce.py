"""Decides how a baseline says where it listens: the same lines as the gateway prints.

It must never print `ready` before the socket accepts.
"""

import argparse
import sys
from pathlib import Path


def ready(kind: str, port: int) -> None:
    """Prints `<kind>  127.0.0.1:PORT` and the final `ready` line, at once."""
    scheme = "http://" if kind == "http" else ""
    sys.stdout.write(f"{kind}  {scheme}127.0.0.1:{port}\nready\n")
    sys.stdout.flush()


def repository_argument(description: str) -> Path:
    """The one argument that the baselines with a model take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", type=Path, required=True, help="model repository folder")
    folder: Path = parser.parse_args().models
    return folder
