"""The folder that the example works in, and ``headrace`` run there.

Decides what lies where, and that every command finds model, manifest and store through the folder's own
``headrace.toml``, whatever the environment says. It must never run a command without a limit, and never touch a store
other than the private one of its folder.

```
<place>/headrace.toml           where models, manifest and store are, for whoever works here by hand
<place>/tables/<view>/…parquet  what became known, and when: the source of all rows
<place>/questions.parquet       who was asked about, when, and what became of it
<place>/features/               the manifest, as `headrace features apply` writes it
<place>/training_set.parquet    the inputs of every question, as they were known at its minute, and its data card
<place>/models/flights/         what a gateway serves
<place>/replay/                 the rows and questions of one afternoon, moved to today
<place>/rollouts/               the audit log of rollouts, and the last plan that was known
<place>/store/                  the private store's data
```
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.store import StoreSettings

DEFINITIONS = Path(__file__).with_name("definitions.py").resolve()
COMMAND_LIMIT_S = 300.0
_SETTINGS = """\
# Found by every command that is run in this folder.
[repository]
models = "models"

[features]
manifest = "features"
push = true

[store]
state_dir = "store"

[rollout]
enabled = true
state_dir = "rollouts"
"""
_LAST_CHARACTERS = 2_000


class CommandFailedError(Exception):
    """A command of ``headrace`` did not end well. The message holds its last words."""


@dataclass(frozen=True)
class Place:
    """The folder."""

    folder: Path

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    @property
    def questions(self) -> Path:
        return self.folder / "questions.parquet"

    @property
    def manifest(self) -> Path:
        return self.folder / "features"

    @property
    def training_set(self) -> Path:
        return self.folder / "training_set.parquet"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def replay(self) -> Path:
        return self.folder / "replay"

    @property
    def rollouts(self) -> Path:
        return self.folder / "rollouts"

    @property
    def store(self) -> StoreSettings:
        """Of the private store of this folder."""
        return StoreSettings(state_dir=str(self.folder / "store"))

    def prepare(self) -> None:
        """Make the folder, with its settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "headrace.toml").write_text(_SETTINGS, "utf-8")


class Headrace:
    """The product's command, run in the folder of a place."""

    def __init__(self, command: Sequence[str], place: Place) -> None:
        """``command``: what to run it with, such as ``["/path/headrace"]``."""
        self._command = list(command)
        self.place = place

    def line(self, *words: str) -> list[str]:
        """The whole command line."""
        return [*self._command, *words]

    @property
    def environment(self) -> Mapping[str, str]:
        """That of this process, without settings that would lead elsewhere."""
        return {name: value for name, value in os.environ.items() if "HEADRACE_" not in name}

    def run(self, *words: str, given: str = "", limit_s: float = COMMAND_LIMIT_S) -> str:
        """What the command says on its standard output. Raises ``CommandFailedError``."""
        said = f"headrace {' '.join(words)}"
        try:
            done = subprocess.run(
                self.line(*words),
                cwd=self.place.folder,
                env=self.environment,
                input=given,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailedError(f"{said}: no end after {limit_s:g} s") from None
        except OSError as error:
            raise CommandFailedError(f"{said}: {error}") from None
        if done.returncode:
            told = (done.stdout + done.stderr).strip()[-_LAST_CHARACTERS:]
            raise CommandFailedError(f"{said}: exit code {done.returncode}\n{told}")
        return done.stdout
