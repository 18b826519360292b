"""Who can answer in whose place, and the sentence about who cannot."""

from __future__ import annotations

from gateway.core.compatible import difference
from tests.support.servables import StubServable, WantedNames, stub, tensor_spec

X = tensor_spec("x", "FP32", -1, 3)
Y = tensor_spec("y", "FP32", -1)


def test_versions_that_callers_cannot_tell_apart() -> None:
    one = stub([X], [Y], max_batch_size=8, version="1")
    enriched = stub([X], [Y], max_batch_size=64, version="2", enrichment=WantedNames(("user",)))
    assert difference(one, one) == difference(one, enriched) == difference(enriched, one) == ""


def test_other_inputs() -> None:
    champion = stub([X], [Y], version="1")
    for specs in ([], [tensor_spec("x", "FP64", -1, 3)], [tensor_spec("x", "FP32", -1, 4)], [X, Y]):
        said = difference(stub(specs, [Y], version="2"), champion)
        assert said.startswith("its inputs are ")
        assert said.endswith("those of version 1 are x FP32 [-1, 3]")


def test_other_outputs() -> None:
    champion = stub([X], [Y], version="1")
    other = stub([X], [tensor_spec("z", "FP32", -1)], version="2")
    assert difference(other, champion) == (
        "its outputs are z FP32 [-1], and those of version 1 are y FP32 [-1]"
    )


def test_the_order_of_inputs_is_what_a_caller_may_rely_on() -> None:
    assert difference(stub([X, Y], [Y]), stub([Y, X], [Y]))


def test_who_takes_batches_is_told_whichever_is_asked() -> None:
    batched: StubServable = stub([X], [Y], version="2", max_batch_size=4)
    alone = stub([X], [Y], version="1")
    said = "version 2 takes batches, and version 1 does not"
    assert difference(batched, alone) == difference(alone, batched) == said
