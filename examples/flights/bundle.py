"""The folder that a gateway serves, and ``features.json``, which tells a client what to send.

Decides what lies where under the model repository, and when a model on disk can be used again. It
must never trust a half-written folder: ``features.json`` is written last and holds the digests of
the other files.

```
<models>/flights/1/model.onnx     what the gateway runs
<models>/flights/model.toml       how it batches
<models>/flights/features.json    what the inputs mean, and how good the model is
<models>/flights/lightgbm.txt     the same trees in LightGBM's own format, to compare with
```
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lightgbm
import msgspec
import onnx

from examples.flights.category_codes import CategoryCodes
from examples.flights.features import FEATURES, GRID, PREDICTION_POINT
from examples.flights.tables import data_digest

MODEL_NAME = "flights"
MODEL_TOML = "[batching]\nmax_batch_size = 64\n"

_CODE = ("tables", "flight_log", "windows", "category_codes", "features", "trees", "onnx_export")
_LIBRARIES = ("lightgbm", "onnx", "onnxmltools")


class Column(msgspec.Struct, frozen=True):
    """One column of the input. ``when_unknown`` stands for a missing value; null: never missing."""

    name: str
    unit: str
    meaning: str
    when_unknown: float | None


class Month(msgspec.Struct, frozen=True):
    """How one month went. ``part`` is training or test."""

    month: int
    part: str
    flights: int
    late_share: float
    auc: float


class Recipe(msgspec.Struct, frozen=True):
    """Everything that a model depends on: same recipe, same model."""

    data_sha256: str
    code_sha256: str
    libraries: dict[str, str]


class Parity(msgspec.Struct, frozen=True):
    """How far the graph is from LightGBM: the largest difference of a probability over ``rows``."""

    rows: int
    max_difference: float


class Description(msgspec.Struct, frozen=True):
    """The content of ``features.json``."""

    predicts: str
    prediction_point: str
    features: tuple[Column, ...]
    grid: float
    codes: dict[str, dict[str, int]]
    training_months: tuple[int, ...]
    months: tuple[Month, ...]
    parity: Parity
    recipe: Recipe
    sha256: dict[str, str]

    @property
    def category_codes(self) -> CategoryCodes:
        return CategoryCodes(self.codes)


@dataclass(frozen=True)
class Bundle:
    """The model's folder below a model repository."""

    models: Path

    @property
    def folder(self) -> Path:
        return self.models / MODEL_NAME

    @property
    def model(self) -> Path:
        return self.folder / "1" / "model.onnx"

    @property
    def trees(self) -> Path:
        return self.folder / "lightgbm.txt"

    @property
    def description(self) -> Path:
        return self.folder / "features.json"

    def describe(self) -> Description:
        """What ``features.json`` says. Raises ``OSError`` or ``msgspec.DecodeError``."""
        return msgspec.json.decode(self.description.read_bytes(), type=Description)

    def load_trees(self) -> lightgbm.Booster:
        """The trees as LightGBM knows them."""
        return lightgbm.Booster(model_str=self.trees.read_text("utf-8"))

    def is_current(self, recipe: Recipe) -> bool:
        """Is a whole model of this recipe there?"""
        try:
            description = self.describe()
            return description.recipe == recipe and description.sha256 == self._digests()
        except (OSError, msgspec.DecodeError):
            return False

    def write(
        self, model: onnx.ModelProto, trees: lightgbm.Booster, description: Description
    ) -> None:
        """Write all four files; what is there already is replaced, file by file."""
        self.description.unlink(missing_ok=True)
        _replace(self.model, model.SerializeToString())
        _replace(self.folder / "model.toml", MODEL_TOML.encode())
        _replace(self.trees, trees.model_to_string().encode())
        whole = msgspec.structs.replace(description, sha256=self._digests())
        _replace(self.description, msgspec.json.format(msgspec.json.encode(whole)) + b"\n")

    def _digests(self) -> dict[str, str]:
        return {path.name: _sha256(path.read_bytes()) for path in (self.model, self.trees)}


def current_recipe() -> Recipe:
    """The recipe of a model trained now. Raises ``DataMissingError``."""
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CODE)
    return Recipe(
        data_sha256=data_digest(),
        code_sha256=_sha256(b"".join(sources)),
        libraries={name: version(name) for name in _LIBRARIES},
    )


def describe_model(
    codes: CategoryCodes,
    training_months: tuple[int, ...],
    months: tuple[Month, ...],
    parity: Parity,
    recipe: Recipe,
) -> Description:
    """The description of a model, still without the digests of its files."""
    return Description(
        predicts="the probability of arriving 15 or more minutes late, if the flight arrives",
        prediction_point=PREDICTION_POINT,
        features=tuple(
            Column(feature.name, feature.unit, feature.meaning, feature.when_unknown)
            for feature in FEATURES
        ),
        grid=1 / GRID,
        codes={category: dict(names) for category, names in codes.codes.items()},
        training_months=training_months,
        months=months,
        parity=parity,
        recipe=recipe,
        sha256={},
    )


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
