"""One service, model, store and request drawn from a seed, completed and compared with the reference."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int64,
    Project,
    String,
)
from featurecache.errors import UnfillableError
from featurecache.joining.assembly import DTYPES, ModelInput
from featurecache.joining.resolve import Filled
from featurecache.manifests.compiling import compile_manifest
from featurecache.status import Status
from tests.unit.features.feature_plans import NOW_US, floats, look_up, plan_of, texts
from tests.unit.features.request_reference import (
    Reference,
    Stored,
    evolved,
    some_row,
    some_view,
)

AIRPORT = Entity("airport", keys={"origin": String})
FLIGHT = Entity("flight", keys={"carrier": String, "number": Int64})
DISTANCE = Input("distance", Float32)
NOTHING = Stored(Status.MISSING, 0, {})
"""What a request finds that names no entity."""
ESCAPED = {b"c|": b"c%7C"}


class RequestDay:
    """``check`` runs it; ``AssertionError`` with the seed when anything differs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.target = rng.choice(["FP32", "FP64"])
        self.placed: dict[str, list[tuple[str, Column, bool]]] = {"x": [], "words": []}
        """Columns by tensor: view, column, whether it is asked by the other key."""
        service = self._service()
        self.manifest = evolved(rng, compile_manifest([Project("p"), service]))
        models = [ModelInput("words", "BYTES", (-1, -1)), ModelInput("x", self.target, (-1, -1))]
        self.plan = plan_of(service, *models, manifest=self.manifest)
        self.rows, self.well = rng.choice([0, 1, 1, 2, 5]), rng.choice([0.3, 0.8, 1.0])
        self.given = self._request()
        self.book: dict[bytes, Stored] = {}

    def _service(self) -> FeatureService:
        rng = self.rng
        tensors: dict[str, list[Any]] = {"x": [DISTANCE], "words": [AIRPORT["origin"]]}
        asked: list[tuple[FeatureView, Column, bool]] = []
        for number in range(rng.randint(1, 3)):
            view = some_view(rng, f"v{number}", rng.choice([AIRPORT, FLIGHT]))
            columns = rng.sample(view.columns, rng.randint(1, min(8, len(view.columns))))
            if rng.random() < 0.3:
                columns = view.columns[: rng.randint(1, 12)]
            asked += [(view, column, False) for column in columns]
            if rng.random() < 0.3 and view.entity is AIRPORT:
                asked += [(view, column, True) for column in columns[:2]]
        if rng.random() < 0.5:
            rng.shuffle(asked)
        for view, column, is_other in asked:
            where = "words" if column.type.is_string else "x"
            tensors[where].append((view.by(origin="dest") if is_other else view)[column.name])
            self.placed[where].append((view.name, column, is_other))
        return FeatureService("s", tensors)

    def _request(self) -> dict[str, list[Any]]:
        rng, rows = self.rng, self.rows
        choices: dict[str, list[Any]] = {
            "origin": [b"a", b"b", b"c|", b""],
            "dest": [b"b", b"c|"],
            "carrier": [b"UA", b"AA", b""],
            "number": [1, -2],
        }
        if self.well == 1.0:
            choices = {key: [one for one in some if one != b""] for key, some in choices.items()}
        given = {key: [rng.choice(some) for _ in range(rows)] for key, some in choices.items()}
        return given | {"distance": [rng.uniform(-5, 5) for _ in range(rows)]}

    def _input(self, name: str) -> np.ndarray:
        given = self.given[name]
        if name == "distance":
            return floats(*given)
        return np.array(given, np.int64).reshape(-1, 1) if name == "number" else texts(*given)

    def check(self) -> Filled | None:
        """The completed request; None when it was refused, rightly."""
        inputs = [self._input(one.name) for one in self.plan.client_inputs]
        wanted = self.plan.wanted(inputs, ())
        store: dict[bytes, bytes | None] = {}
        for use, asked in zip(self.plan.uses, wanted.views, strict=True):
            for key in asked.keys:
                if key not in self.book:
                    self.book[key], store[key] = some_row(self.rng, use.spec, self.well)
        found = look_up(wanted, store, {key for key, one in self.book.items() if one.aged})
        reference = Reference(
            {(use.spec.name, use.title != use.spec.name): use.columns for use in self.plan.uses}
        )
        expected = self._expected(reference)
        try:
            filled = self.plan.fill(inputs, wanted, found, NOW_US)
        except UnfillableError as error:
            if error.status not in reference.refusals:
                raise
            return None
        assert not reference.refusals, f"seed {self.seed}: refused nothing of {reference.refusals}"
        self._compare(filled, expected)
        self._compare_statuses(filled, reference)
        return filled

    def _stored(self, view: str, is_other: bool, row: int) -> Stored:
        entity = self.manifest.entity(self.manifest.view(view).entity)
        parts = [self.given[key][row] for key in (["dest"] if is_other else entity.keys)]
        if b"" in parts:
            return NOTHING
        escaped = [b"%d" % one if isinstance(one, int) else ESCAPED.get(one, one) for one in parts]
        id_ = b"|".join(escaped)
        return self.book[b"hr:p:{%b:%b}:%b" % (entity.name.encode(), id_, view.encode())]

    def _expected(self, reference: Reference) -> dict[str, list[list[Any]]]:
        expected: dict[str, list[list[Any]]] = {"x": [], "words": []}
        for row in range(self.rows):
            for where, first in (("x", "distance"), ("words", "origin")):
                line = [self.given[first][row]]
                for view, column, is_other in self.placed[where]:
                    stored = self._stored(view, is_other, row)
                    value = reference.value(self.manifest.view(view), is_other, stored, column.name)
                    is_list = isinstance(value, list)
                    line += value if is_list else [value] * column.type.elements
                expected[where].append(line)
        return expected

    def _compare(self, filled: Filled, expected: dict[str, list[list[Any]]]) -> None:
        words, x = filled.tensors
        width = 1 + sum(column.type.elements for _, column, _ in self.placed["x"])
        lines = [[np.float32(line[0]), *line[1:]] for line in expected["x"]]
        with np.errstate(over="ignore"):
            wanted = np.array(lines, np.float64).reshape(self.rows, width)
            wanted = wanted.astype(DTYPES[self.target])
        assert x.dtype == DTYPES[self.target]
        np.testing.assert_array_equal(x, wanted, err_msg=f"seed {self.seed}")
        assert words.tolist() == expected["words"], f"seed {self.seed}"

    def _compare_statuses(self, filled: Filled, reference: Reference) -> None:
        defaulted = values = 0
        for use, read in zip(self.plan.uses, filled.views, strict=True):
            is_other = use.title != use.spec.name
            judged = [
                reference.status(use.spec, self._stored(use.spec.name, is_other, row))
                for row in range(self.rows)
            ]
            told = [Status.PRESENT] * self.rows if read.statuses is None else read.statuses.tolist()
            assert told == [status for status, _ in judged], f"seed {self.seed}"
            defaulted += len(use.columns) * sum(not is_used for _, is_used in judged)
            values += len(use.columns) * self.rows
        counted = filled.defaulted_values, filled.values
        assert counted == (defaulted, values), f"seed {self.seed}"
