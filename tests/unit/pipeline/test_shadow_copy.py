"""How a version is asked what another one was asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.signature import Signature, TensorSpec
from featurecache.definitions import Column, Entity, FeatureService, FeatureView, Float32, String
from featurecache.joining.assembly import ModelInput
from gateway.core.servables import ServableVersion
from gateway.messages import Prediction, RoutedRequest
from gateway.pipeline.enrich import ServiceEnrichment
from gateway.pipeline.shadow_copy import ShadowCopy, way_between, weight
from tests.support.servables import WantedNames
from tests.unit.features.feature_plans import plan_of
from tests.unit.pipeline.requests import request

X, Z = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("z", "INT64", (-1, 1))
Y = TensorSpec("y", "FP32", (-1, 1))
ONES = np.ones((2, 2), np.float32)
COUNTS = np.array([[1], [2]], np.int64)


def version(number: str, *inputs: TensorSpec, batch: int = 8, enrichment: Any = None) -> Any:
    signature = Signature(inputs, (Y,))
    return ServableVersion(
        "m", number, signature, list, max_batch_size=batch, enrichment=enrichment
    )


def copied(primary: Any, shadow: Any, **fields: Any) -> Any:
    """The request that the shadow gets for one of the primary's."""
    sent = (ONES, COUNTS)[: len(primary.signature.inputs)]
    asks = request(*fields.pop("inputs", sent), **fields)
    routed = RoutedRequest(asks, primary, None, (shadow.version,), sent)
    way = way_between(primary, shadow, (), None)
    assert way is not None
    prediction = Prediction(primary, [np.ones((2, 1), np.float32)])
    copy = ShadowCopy(None, routed, prediction, shadow, way, lambda *ending: None)
    return copy.routed(5.0, 10.0).request


def test_inputs_in_another_order_are_put_in_order() -> None:
    asked = copied(version("1", X, Z), version("2", Z, X))
    assert [one.shape for one in asked.inputs] == [(2, 1), (2, 2)]
    assert (asked.rows, asked.version, asked.deadline_s) == (2, "2", 15.0)


def test_a_version_that_is_not_batched_gets_one_request() -> None:
    assert copied(version("1", X), version("2", X, batch=0)).rows == 1


@pytest.mark.parametrize(
    "inputs",
    [
        (X,),
        (X, Y),
        (X, TensorSpec("z", "INT32", (-1, 1))),
        (X, TensorSpec("z", "INT64", (-1, 2))),
        (X, TensorSpec("z", "INT64", (-1,))),
    ],
)
def test_a_version_with_other_inputs_cannot_be_asked(inputs: tuple[TensorSpec, ...]) -> None:
    assert way_between(version("1", X, Z), version("2", *inputs), (), None) is None


def test_a_version_that_takes_more_shapes_can() -> None:
    wide = TensorSpec("x", "FP32", (-1, -1))
    assert way_between(version("1", X), version("2", wide), (), None) is not None
    assert way_between(version("1", wide), version("2", X), (), None) is None


# -- features -------------------------------------------------------------------------------------


PLANE = Entity("plane", keys={"tail": String})


def enrichment(*columns: str, name: str = "service", max_age_s: int = 60) -> ServiceEnrichment:
    """A feature service about planes, made ready anew, as each version does it."""
    planes = FeatureView(
        "planes",
        entity=PLANE,
        columns=[Column("age", Float32), Column("seats", Float32)],
        max_age=max_age_s,
    )
    service = FeatureService(name, {"x": [planes[one] for one in columns]})
    plan = plan_of(service, ModelInput("x", "FP32", (-1, len(columns))))
    return ServiceEnrichment(plan, 0.05, 1.0, Signature((), ()))


TAIL = TensorSpec("tail", "BYTES", (-1, 1))
CARRIED = (np.array([[b"row"], [None]], object),)
TAILS = np.array([[b"N1"], [b"N2"]], object)


def with_features(**of_shadow: Any) -> tuple[bool, Any]:
    columns = of_shadow.pop("columns", ("age", "seats"))
    primary = version("1", TAIL, enrichment=enrichment("age", "seats"))
    shadow = version("2", TAIL, enrichment=enrichment(*columns, **of_shadow))
    asks = request(*CARRIED)
    routed = RoutedRequest(asks, primary, None, ("2",), (TAILS,))
    way = way_between(primary, shadow, (), None)
    assert way is not None
    copy = ShadowCopy(None, routed, Prediction(primary, [ONES]), shadow, way, lambda *ending: None)
    return way.is_enriched_alike, copy.routed(0.0, 1.0).request.inputs


def test_equal_features_are_not_looked_up_again() -> None:
    """Both versions have plans of their own, made of the same definitions."""
    alike, inputs = with_features()
    assert alike
    assert inputs is CARRIED or inputs[0] is CARRIED[0]


@pytest.mark.parametrize(
    "changed", [{"columns": ("seats", "age")}, {"name": "another"}, {"max_age_s": 61}]
)
def test_other_features_are_looked_up_for_what_the_caller_sent(changed: dict[str, Any]) -> None:
    alike, inputs = with_features(**changed)
    assert not alike
    assert inputs[0] is TAILS


def test_what_the_shadow_wants_of_the_context_is_picked_by_name() -> None:
    names = WantedNames(("country", "city"), ("x-tail",))
    slices = [("parameter", "city"), ("header", "X-Tail")]
    way = way_between(version("1", X), version("2", X), slices, names)
    assert way is not None
    assert way.slices == (("parameter:city", False, 1), ("header:X-Tail", False, 2))
    assert way.context_length == 3


def test_weights_count_what_is_kept_in_memory() -> None:
    whole = np.zeros((64, 10), np.float32)
    assert weight([whole]) == 2560
    assert weight([whole[3:4]]) == 2560  # a view keeps all of it
    assert weight([np.array([[b"x" * 1000]], object)]) > 1000
