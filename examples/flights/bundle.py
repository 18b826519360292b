"""The folder that a gateway serves, and ``description.json``, which says how good the model is and what made it.

Decides what lies where under the model repository, and when a model on disk can be used again. It
must never trust a half-written folder: ``description.json`` is written last and holds the digests of
the other files.

```
<models>/flights/1/model.onnx     what the gateway runs
<models>/flights/1/lightgbm.txt   the same trees in LightGBM's own format, to compare with
<models>/flights/2/…              the next version: other trees, same inputs and output
<models>/flights/model.toml       its feature service, how it batches, and that all versions are served
<models>/flights/description.json its inputs, and how good each version is, month by month
```
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lightgbm
import msgspec
import onnx

from examples.flights.feature_tables import LEAD_MINUTES
from examples.flights.inputs import SERVICE
from examples.flights.tables import data_digest

MODEL_NAME = "flights"
MODEL_TOML = f"""\
[features]
service = "{SERVICE}"
lookup_budget_ms = 100        # a demo on a busy laptop; a caller's own deadline still counts
max_defaulted_fraction = 0.9  # a night without flights is fine, an empty store is not

[batching]
max_batch_size = 64

[versions]
policy = "all"
"""

_DATA_CODE = ("tables", "flight_log", "streams", "feature_tables", "definitions", "inputs")
_MODEL_CODE = ("trees", "train", "onnx_export")
_LIBRARIES = ("lightgbm", "onnx", "onnxmltools")


class Month(msgspec.Struct, frozen=True):
    """How one month went. ``part`` is training or test; ``mean_chance`` is what was predicted for ``late_share``."""

    month: int
    part: str
    flights: int
    late_share: float
    mean_chance: float
    auc: float


class Recipe(msgspec.Struct, frozen=True):
    """Everything that a model depends on: same recipe, same model."""

    inputs_sha256: str
    """Of the published tables, and of the code that makes inputs of them."""
    code_sha256: str
    """Of what makes trees and graphs of those."""
    libraries: dict[str, str]


class Parity(msgspec.Struct, frozen=True):
    """How far the graph is from LightGBM: the largest difference of a probability over ``rows``."""

    rows: int
    max_difference: float


class Version(msgspec.Struct, frozen=True):
    """One version: what it was made from, how good it is, and how close the graph is to the trees."""

    version: int
    training_months: tuple[int, ...]
    training_flights: int
    trees: int
    leaves: int
    months: tuple[Month, ...]
    parity: Parity


class Baseline(msgspec.Struct, frozen=True):
    """How good the first version is with the request and the weather alone."""

    inputs: tuple[str, ...]
    months: tuple[Month, ...]


class Description(msgspec.Struct, frozen=True):
    """The content of ``description.json``."""

    predicts: str
    prediction_point: str
    feature_service: str
    inputs: tuple[str, ...]
    """Columns of the model's input; ``headrace features list`` and the definitions say what they are."""
    versions: tuple[Version, ...]
    baseline: Baseline
    recipe: Recipe
    sha256: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """The trees of one version, in both formats."""

    version: int
    model: onnx.ModelProto
    trees: lightgbm.Booster


@dataclass(frozen=True)
class Bundle:
    """The model's folder below a model repository."""

    models: Path

    @property
    def folder(self) -> Path:
        return self.models / MODEL_NAME

    def model(self, version: int) -> Path:
        return self.folder / str(version) / "model.onnx"

    def trees(self, version: int) -> Path:
        return self.folder / str(version) / "lightgbm.txt"

    @property
    def description(self) -> Path:
        return self.folder / "description.json"

    def describe(self) -> Description:
        """What ``description.json`` says. Raises ``OSError`` or ``msgspec.DecodeError``."""
        return msgspec.json.decode(self.description.read_bytes(), type=Description)

    def load_trees(self, version: int) -> lightgbm.Booster:
        """The trees as LightGBM knows them."""
        return lightgbm.Booster(model_str=self.trees(version).read_text("utf-8"))

    def current(self, recipe: Recipe) -> Description | None:
        """The description, if all versions of this recipe are there, whole."""
        try:
            description = self.describe()
            versions = [one.version for one in description.versions]
            is_whole = description.sha256 == self._digests(versions)
        except (OSError, msgspec.DecodeError):
            return None
        return description if is_whole and description.recipe == recipe else None

    def write(self, artifacts: Sequence[Artifact], description: Description) -> None:
        """Write all files; what is there already is replaced, file by file."""
        self.description.unlink(missing_ok=True)
        _replace(self.folder / "model.toml", MODEL_TOML.encode())
        for artifact in artifacts:
            _replace(self.model(artifact.version), artifact.model.SerializeToString())
            _replace(self.trees(artifact.version), artifact.trees.model_to_string().encode())
        digests = self._digests(artifact.version for artifact in artifacts)
        whole = msgspec.structs.replace(description, sha256=digests)
        _replace(self.description, msgspec.json.format(msgspec.json.encode(whole)) + b"\n")

    def _digests(self, versions: Iterable[int]) -> dict[str, str]:
        files = (file for one in versions for file in (self.model(one), self.trees(one)))
        return {str(file.relative_to(self.folder)): _sha256(file.read_bytes()) for file in files}


def current_recipe() -> Recipe:
    """The recipe of a model trained now. Raises ``DataMissingError``."""
    return Recipe(
        inputs_sha256=_sha256(data_digest().encode() + _sources(_DATA_CODE)),
        code_sha256=_sha256(_sources(_MODEL_CODE)),
        libraries={name: version(name) for name in _LIBRARIES},
    )


def describe_model(
    inputs: Sequence[str], versions: Sequence[Version], baseline: Baseline, recipe: Recipe
) -> Description:
    """The description of a model, still without the digests of its files."""
    return Description(
        predicts="the probability of arriving 15 or more minutes late, if the flight arrives",
        prediction_point=(
            f"{LEAD_MINUTES} minutes before the scheduled departure; every input was known by then"
        ),
        feature_service=SERVICE,
        inputs=tuple(inputs),
        versions=tuple(versions),
        baseline=baseline,
        recipe=recipe,
        sha256={},
    )


def _sources(names: Sequence[str]) -> bytes:
    return b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
