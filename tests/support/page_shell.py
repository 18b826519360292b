"""A page of the documentation that works as written: files are made, commands run in one shell, answers compared.

A block of another language than console begins with a comment that names its file; in a console block ``$ `` begins a
command, indented lines belong to it, and what follows is what it says. What may differ is the page's to say; of numbers
with a point the last digit may.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import psutil

from tests.support.waiting import eventually

CHECKOUT = Path(__file__).resolve().parents[2]
WITHIN_S = 60.0
"""For one command; on a busy machine importing what training needs takes a while."""
GONE_WITHIN_S = 30.0
POLL_S = 0.02
TOLERANCE = 0.01
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_ACTIVATE = ". .venv/bin/activate"
_PORT = re.compile(r"\b800([012])\b")
_ADDRESS = re.compile(r"^(http|grpc|admin) +(?:http://)?127\.0\.0\.1:(\d+)$", re.MULTILINE)
_FRONTS = {"http": "8000", "grpc": "8001", "admin": "8002"}
_DECIMAL = re.compile(r"-?\d+\.\d+")


class Step(NamedTuple):
    """A command and what it says, or a file (``path``) and its content."""

    line: int
    text: str
    says: str = ""
    path: str = ""


def steps_of(page: str) -> Iterator[Step]:
    """In the page's order."""
    for block in BLOCK.finditer(page):
        kind, body = block.groups()
        line = page.count("\n", 0, block.start()) + 2
        if kind != "console":
            name, _, _ = body.removeprefix("# ").partition("\n")
            assert re.fullmatch(r"[\w./]+\.(py|toml)", name), f"line {line}: which file is it?"
            yield Step(line, body, path=name)
            continue
        assert body.startswith("$ "), f"line {line}: a command begins with $"
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            said = part.splitlines()
            length = 1
            while length < len(said) and said[length].startswith("    "):
                length += 1
            yield Step(line, "\n".join(said[:length]), "\n".join(said[length:]))
            line += len(said)


class Shell:
    """A bash that goes through the page, with free ports in the place of the page's."""

    def __init__(self, folder: Path, page: str, may_differ: re.Pattern[str]) -> None:
        """``page``: its name, for people. It works in a folder that it makes below ``folder``."""
        inherited = {key: value for key, value in os.environ.items() if "HEADRACE_" not in key}
        self._folder = folder
        self._page = page
        self._may_differ = may_differ
        self._ports: dict[str, str] = {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as the shell lives
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=CHECKOUT,
            env=inherited
            | {f"HEADRACE_SERVER_{name.upper()}_PORT": "0" for name in _FRONTS}
            | {"TMPDIR": str(folder), "LC_ALL": "C.UTF-8", "LOGNAME": "anna"},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it has started ends with it
        )
        self._seen = 0

    def run(self, step: Step) -> None:
        """The command; fails when it fails, or says something else than the page."""
        command = _PORT.sub(lambda found: self._ports.get(found[0], found[0]), step.text)
        if command == _ACTIVATE:  # the environment that runs this test, wherever it is
            command = f'PATH="{Path(sys.executable).parent}:$PATH"'
        end = f"-- {step.line} --"
        self._say(f"{command}\necho '{end}' $? $!\n")
        mark = re.compile(rf"^{end} (\d+) ?(\d*)\n", re.MULTILINE)
        found = eventually(
            f"an end of: {command}",
            lambda: mark.search(self._output) or self._shell.poll() is not None,
            within_s=WITHIN_S,
            poll_s=POLL_S,
        )
        assert isinstance(found, re.Match), f"line {step.line}: the shell has ended"
        assert found[1] == "0", f"line {step.line}: {command}: exit code {found[1]}\n{self._output}"
        if command.endswith("&"):
            lines = step.says.count("\n") + 1
            eventually(
                f"{lines} lines of: {command}",
                lambda: (
                    mark.sub("", self._output).count("\n") >= lines
                    or not psutil.pid_exists(int(found[2]))
                ),
                within_s=WITHIN_S,
                poll_s=POLL_S,
            )
        said = mark.sub("", self._output).rstrip("\n")
        self._seen = os.fstat(self._log.fileno()).st_size
        for name, port in _ADDRESS.findall(said):
            self._ports[_FRONTS[name]] = port
            # Commands that find the port by the settings find it, and a server that is started again has the same ones.
            self._say(f"export HEADRACE_SERVER_{name.upper()}_PORT={port}\n")
        told = {port: shown for shown, port in self._ports.items()}
        said = re.sub(r"\b\d{4,5}\b", lambda found: told.get(found[0], found[0]), said)
        assert is_as_shown(step.says, said, self._may_differ), (
            f"{self._page}, line {step.line}: $ {step.text}\n--- the page\n{step.says}\n--- now\n{said}"
        )

    def save(self, step: Step) -> None:
        """A file of the page, below the folder where the shell is now."""
        here = Path(os.readlink(f"/proc/{self._shell.pid}/cwd"))
        assert self._folder in here.parents, here
        path = here / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_PORT.sub(lambda found: self._ports.get(found[0], found[0]), step.text))

    def _say(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        self._shell.stdin.flush()

    @property
    def _output(self) -> str:
        """What was said since the last command began."""
        length = os.fstat(self._log.fileno()).st_size - self._seen
        return os.pread(self._log.fileno(), length, self._seen).decode(errors="replace")

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        if error is not None:
            for log in self._folder.glob("*/*.log"):
                error.add_note(f"{log.name}:\n{log.read_text()}")
        try:
            if error is None:
                assert self._shell.wait(GONE_WITHIN_S) == 0
                eventually("nothing runs any more", lambda: not self._has_group(signal.SIGCONT))
        finally:
            self._has_group(signal.SIGKILL)
            self._shell.wait(GONE_WITHIN_S)
            self._log.close()

    def _has_group(self, number: signal.Signals) -> bool:
        """Whether any process that it has started was there to get the signal."""
        try:
            os.killpg(self._shell.pid, number)
        except ProcessLookupError:
            return False
        return True


def is_as_shown(shown: str, said: str, may_differ: re.Pattern[str]) -> bool:
    """Whether the two differ only in what may differ, in blanks, and in the last digits of numbers with a point."""
    plain = [" ".join(may_differ.sub("#", text).split()) for text in (shown, said)]
    if _DECIMAL.sub("#", plain[0]) != _DECIMAL.sub("#", plain[1]):
        return False
    numbers = zip(*(map(float, _DECIMAL.findall(text)) for text in plain), strict=True)
    return all(abs(one - other) <= TOLERANCE * max(1.0, abs(one)) for one, other in numbers)
