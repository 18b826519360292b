from __future__ import annotations

from collections.abc import Sequence

import pytest

from backends.signature import Signature, Tensor
from gateway.core.servables import ServableState, ServableTable, ServableVersion
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from tests.support.servables import WantedNames, tensor_spec


def run(inputs: Sequence[Tensor]) -> list[Tensor]:
    raise NotImplementedError("nothing is run here")


def version(name: str = "m", number: str = "1") -> ServableVersion:
    return ServableVersion(name, number, Signature((), ()), run)


def ready(name: str, number: str) -> ModelStatus:
    return ModelStatus(name, number, "READY", "")


def unavailable(name: str, number: str, reason: str) -> ModelStatus:
    return ModelStatus(name, number, "UNAVAILABLE", reason)


def state(one: ServableVersion) -> ServableState:
    return one.state


def refusal(table: ServableTable, model: str, number: str = "") -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        table.find(model, number)
    return refused.value


# -- what a version takes -------------------------------------------------------------------------


def test_a_version_may_have_an_enrichment() -> None:
    assert version().enrichment is None
    callers = Signature((tensor_spec("amount", "FP32", -1),), (tensor_spec("y", "FP32", -1),))
    wanted = WantedNames(("user",), ("x-tenant",))
    assert ServableVersion("m", "1", callers, run, enrichment=wanted).enrichment is wanted


# -- the life of a version ------------------------------------------------------------------------


def test_a_version_counts_its_callers() -> None:
    one = version()
    one.acquire()
    one.acquire()
    assert one.handles == 2
    assert not one.release()
    assert not one.release()
    assert state(one) is ServableState.READY


def test_a_version_that_nobody_holds_is_unloaded_at_once() -> None:
    one = version()
    assert one.retire()
    assert state(one) is ServableState.UNLOADED


def test_a_version_that_is_held_drains_until_the_last_caller_leaves() -> None:
    one = version()
    one.acquire()
    one.acquire()
    assert not one.retire()
    assert state(one) is ServableState.DRAINING
    assert not one.release()
    assert one.release()
    assert state(one) is ServableState.UNLOADED


def test_a_version_that_has_gone_takes_no_caller() -> None:
    one = version("prices", "7")
    one.retire()
    with pytest.raises(HeadraceError, match="'prices' version 7 is being unloaded") as refused:
        one.acquire()
    assert refused.value.code is ErrorCode.NOT_READY
    assert one.handles == 0


def test_a_version_that_leaves_takes_those_who_found_it_before() -> None:
    one = version("prices", "7")
    one.acquire()
    one.retire()
    one.acquire()  # the hop behind the one that holds it already
    assert not one.release()
    assert one.release()
    assert state(one) is ServableState.UNLOADED


@pytest.mark.parametrize("held", [True, False])
def test_retiring_twice_changes_nothing(held: bool) -> None:
    one = version()
    if held:
        one.acquire()
    one.retire()
    before = state(one)
    assert not one.retire()
    assert state(one) is before


def test_letting_go_more_often_than_taking_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        version().release()


def test_a_version_can_be_read() -> None:
    one = version("m", "3")
    one.acquire()
    assert repr(one) == "ServableVersion(m/3 ready, 1 handles)"


# -- which version answers ------------------------------------------------------------------------


def test_a_version_is_found_by_its_number() -> None:
    first, second = version(number="1"), version(number="2")
    table = ServableTable([first, second], [ready("m", "1"), ready("m", "2")])
    assert table.find("m", "1") is first
    assert table.find("m", "2") is second


def test_without_a_number_the_newest_answers() -> None:
    """Newest by number: "10" is newer than "9"."""
    versions = [version(number=number) for number in ("9", "10", "2")]
    table = ServableTable(versions, [])
    assert table.find("m", "").version == "10"
    assert table.versions("m") == ["2", "9", "10"]


def test_a_newer_version_that_failed_leaves_the_older_one_answering() -> None:
    table = ServableTable([version(number="1")], [ready("m", "1"), unavailable("m", "2", "broken")])
    assert table.find("m", "").version == "1"


def test_an_unknown_model_is_not_found() -> None:
    refused = refusal(ServableTable([version("m")], [ready("m", "1")]), "n")
    assert refused.code is ErrorCode.NOT_FOUND
    assert "unknown model 'n'" in refused.message


def test_an_unknown_version_is_not_found_and_the_loaded_ones_are_named() -> None:
    table = ServableTable([version(number="1"), version(number="2")], [ready("m", "1")])
    refused = refusal(table, "m", "3")
    assert refused.code is ErrorCode.NOT_FOUND
    assert refused.message == "model 'm' has no version '3'; loaded versions: 1, 2"


def test_a_failed_version_is_not_ready_and_says_why() -> None:
    table = ServableTable(
        [version(number="1")], [ready("m", "1"), unavailable("m", "2", "no such operator")]
    )
    refused = refusal(table, "m", "2")
    assert refused.code is ErrorCode.NOT_READY
    assert refused.message == "model 'm' is not ready: no such operator"


def test_a_model_without_any_usable_version_is_not_ready_and_says_why() -> None:
    refused = refusal(ServableTable([], [unavailable("m", "", "no version folder")]), "m")
    assert refused.code is ErrorCode.NOT_READY
    assert "no version folder" in refused.message


def test_another_models_failure_is_not_told() -> None:
    table = ServableTable([version("m")], [ready("m", "1"), unavailable("n", "1", "broken")])
    assert refusal(table, "m", "9").code is ErrorCode.NOT_FOUND


def test_the_table_lists_each_loaded_version_once() -> None:
    versions = [version("b"), version("a", "1"), version("a", "2")]
    statuses = [ready("a", "1"), ready("a", "2"), ready("b", "1"), unavailable("c", "", "empty")]
    table = ServableTable(versions, statuses)
    assert set(table.servables) == {("a", "1"), ("a", "2"), ("b", "1")}
    assert table.statuses == tuple(statuses)
    assert table.versions("nobody") == []


# -- versions come and go -------------------------------------------------------------------------


def test_a_new_version_takes_over_the_name_and_the_old_one_stays() -> None:
    first, second = version(number="9"), version(number="10")
    table = ServableTable([first], [])
    assert table.put(second) is None
    assert table.find("m", "") is second
    assert table.find("m", "9") is first


def test_an_equal_version_takes_the_place_of_the_one_before() -> None:
    first, second = version(), version()
    table = ServableTable([first], [])
    assert table.put(second) is first
    assert table.find("m", "") is table.find("m", "1") is second
    assert table.of("m") == [second]


def test_an_older_version_does_not_take_over_the_name() -> None:
    newest = version(number="3")
    table = ServableTable([newest], [])
    table.put(version(number="2"))
    assert table.find("m", "") is newest


def test_without_the_newest_the_next_one_answers() -> None:
    first, second = version(number="1"), version(number="2")
    table = ServableTable([first, second], [ready("m", "1")])
    table.remove(second)
    assert table.find("m", "") is first
    assert refusal(table, "m", "2").code is ErrorCode.NOT_FOUND


def test_without_its_last_version_a_model_is_not_found() -> None:
    only = version()
    table = ServableTable([only, version("n")], [ready("m", "1")])
    table.remove(only)
    assert refusal(table, "m").code is ErrorCode.NOT_FOUND
    assert table.find("n", "").name == "n"


def test_removing_what_was_replaced_changes_nothing() -> None:
    first, second = version(), version()
    table = ServableTable([first], [])
    table.put(second)
    table.remove(first)
    assert table.find("m", "1") is second


# -- a rollout's plan -----------------------------------------------------------------------------


def test_a_pinned_version_answers_though_a_newer_one_is_there_and_one_comes() -> None:
    table = ServableTable([version(number="1"), version(number="2")], [ready("m", "1")])
    table.pin("m", "1")
    assert table.find("m", "").version == "1"
    table.put(version(number="3"))
    assert table.find("m", "").version == "1"
    assert table.find("m", "3").version == "3"
    table.pin("m", "3")
    assert table.find("m", "").version == "3"


def test_without_its_pinned_version_a_model_is_not_ready_and_says_whose_wish_it_is() -> None:
    first = version(number="1")
    table = ServableTable([first, version(number="2")], [ready("m", "1"), ready("m", "2")])
    table.pin("m", "1")
    table.remove(first)
    refused = refusal(table, "m")
    assert refused.code is ErrorCode.NOT_READY
    assert refused.retry_after_s == 1.0
    assert "version 1, which answers by its rollout's plan" in refused.message
    assert table.find("m", "2").version == "2"
    assert refusal(table, "m", "1").code is ErrorCode.NOT_FOUND
    table.put(version(number="1"))
    assert table.find("m", "").version == "1"


def test_a_model_can_be_pinned_before_it_is_there_and_no_other_is() -> None:
    table = ServableTable([version("n", "7")], [])
    table.pin("m", "1")
    assert table.find("n", "").version == "7"
    table.put(version("m", "2"))
    assert table.find("m", "2").version == "2"
    table.put(version("m", "1"))
    assert table.find("m", "").version == "1"


def test_changes_are_told_once_they_are_done() -> None:
    table = ServableTable([], [])
    told: list[tuple[str, list[str]]] = []
    table.on_change = lambda model: told.append((model, table.versions(model)))
    first, second = version(number="1"), version(number="1")
    table.put(first)
    table.put(second)
    table.remove(first)  # another one has its place: nothing changes
    table.remove(second)
    assert told == [("m", ["1"]), ("m", ["1"]), ("m", [])]


def test_what_codecs_remember_is_forgotten_when_they_are_to_read_something_else() -> None:
    one = version()
    names = WantedNames(("user",))
    one.reply_templates["x"] = 1
    one.want(None)
    assert one.reply_templates, "nothing has changed"
    one.want(names)
    assert one.context_names is names
    assert not one.reply_templates
    one.reply_templates["x"] = 1
    one.want(WantedNames(("user",)))
    assert one.reply_templates, "it is the same"
    one.want(one.enrichment)
    assert one.context_names is None
    assert not one.reply_templates
