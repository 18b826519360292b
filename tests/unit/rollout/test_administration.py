"""What people do to rollouts: a life, what is refused, what is shown. The store is the one in memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foundation.audit import digest
from rollout.administration import WARM_TIMEOUT_S
from rollout.checking import Facts
from rollout.evidence import ArmCounts, Stretch
from rollout.plan import Event, State, encode
from rollout.ports import (
    Counters,
    StoreAwayError,
)
from rollout.transitions import Author
from tests.unit.rollout.administered import World, denied, in_world
from tests.unit.rollout.plans import OPERATOR, VIEWER, WARM, proposal, with_other

# -- a life ---------------------------------------------------------------------------------------


def test_a_life_is_written_and_recorded_revision_by_revision(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.submit()
        assert (first.is_new, first.is_written, first.plan.state) == (True, True, State.DRAFT)
        assert (await world.plan()).document == first.document
        await world.do(Event.START, reason="")
        stepped = await world.do(Event.STEP, step=2)
        assert stepped.plan.step == 1  # people count from 1
        await world.do(Event.PAUSE)
        await world.do(Event.RESUME)
        await world.do(Event.PROMOTE)
        last = await world.do(Event.ROLLBACK)
        assert not last.is_new
        history = await world.admin.history("delays")
        records = world.records()
        assert [one.action for one in records] == [f"rollout.{one.event}" for one in history]
        assert [one.details["revision"] for one in records] == list(range(1, 8))
        for entry, record in zip(history, records, strict=True):
            assert (record.author, record.reason) == (entry.author, entry.reason)
            assert record.target == "delays"
            assert record.details["at_s"] == entry.at_s
            assert (record.details["from"], record.details["to"]) == (entry.source, entry.target)
        for before, after in itertools.pairwise(records):
            assert after.before_digest == before.after_digest
        assert records[0].before_digest == ""
        assert records[-1].after_digest == digest(last.document)
        assert [one.role for one in records] == ["operator"] + ["approver"] * 6
        assert records[2].details["weights"] == {"3": 95.0, "4": 5.0}

    in_world(tmp_path, test)


def test_start_with_the_plan_is_two_revisions(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        changed = await world.submit(start=True)
        assert (changed.plan.revision, changed.plan.state) == (2, State.STEPPING)
        assert changed.is_new
        assert [one.action for one in world.records()] == ["rollout.submit", "rollout.start"]

    in_world(tmp_path, test)


def test_a_start_waits_until_gateways_have_loaded_what_the_draft_names(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(frozenset({"3"}))

        async def load() -> None:
            if world.slept_s > 2:
                assert (await world.plan()).plan.state is State.DRAFT, "that is what they load by"
                await world.warm(WARM)

        world.on_sleep = load
        changed = await world.submit(start=True)
        assert (changed.plan.revision, changed.plan.state) == (2, State.STEPPING)
        assert changed.is_new
        assert 2 < world.slept_s < 3
        assert [one.action for one in world.records()] == ["rollout.submit", "rollout.start"]

    in_world(tmp_path, test)


def test_what_nobody_loads_in_time_stays_a_draft(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(frozenset({"3"}))
        refusal = await denied(world.submit(start=True))
        assert refusal.kind == "not_warm"
        assert "as a draft of revision 1, and not started" in refusal.sentence
        assert refusal.current is not None
        assert (await world.plan()).plan.state is State.DRAFT
        assert world.slept_s == pytest.approx(WARM_TIMEOUT_S)
        assert [one.action for one in world.records()] == ["rollout.submit"]

    in_world(tmp_path, test)


def test_a_dry_run_checks_everything_and_writes_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        dry = await world.submit(start=True, dry_run=True)
        assert (dry.plan.revision, dry.plan.state, dry.is_written) == (2, State.STEPPING, False)
        assert (await denied(world.submit(proposal(alpha=7.0), dry_run=True))).kind == "faulty"
        await world.warm(frozenset())  # they would load it
        assert (await world.submit(start=True, dry_run=True)).plan.state is State.STEPPING
        assert (world.store.writes, await world.store.models()) == (0, [])
        assert not world.file.exists()

    in_world(tmp_path, test)


# -- what is refused ------------------------------------------------------------------------------


def test_all_faults_come_at_once_with_the_missing_reason(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.facts = Facts(versions=frozenset({"3"}))
        refusal = await denied(world.submit(proposal(alpha=7.0, slo_ms=-1.0), reason=" "))
        assert refusal.kind == "faulty"
        text = "\n".join(refusal.faults)
        for part in ("say why", "slo_ms is -1", "alpha is 7", "has no version 4; it has 3"):
            assert text.count(part) == 1, part
        assert len(refusal.faults) == 4
        assert "4 things" in refusal.sentence
        one = await denied(world.submit())
        assert one.sentence == one.faults[0]
        assert world.store.writes == 0

    in_world(tmp_path, test)


def test_a_champion_that_does_not_answer_is_a_fault_among_others(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        wrong = proposal(champion="4", candidate="9")
        refusal = await denied(world.submit(wrong, expected_revision=1))
        assert len(refusal.faults) == 2
        assert "version 3 is what answers" in refusal.faults[0]
        assert "no version 9" in refusal.faults[1]

    in_world(tmp_path, test)


def test_facts_are_asked_only_for_what_could_be_submitted(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await denied(world.admin.propose("delays", b"no plan", author=OPERATOR, reason="r"))
        await denied(world.submit(author=VIEWER))
        await denied(world.submit(expected_revision=3))
        assert world.facts_asked == 0
        await world.submit()
        assert world.facts_asked == 1
        await denied(world.submit())
        await denied(world.submit(must_be_new=True))
        await denied(world.submit(expected_revision=7))
        assert world.facts_asked == 1

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "no plan"),
        (b"[]", "no plan"),
        (b"\xff", "no plan"),
        (b'"\xff"', "no plan"),
        (b"[" * 100_000, "no plan"),
        (b"{}", "champion"),
        (b'{"format": 2}', "format 2"),
        (b'{"champion": "3", "sticky": {"salt": "s"}, "speed": 3}', "speed"),
        (b'{"model": "other", "champion": "3", "sticky": {"salt": "s"}}', "leave model out"),
        (b" " * (256 * 1024 + 1), "262145 bytes"),
    ],
)
def test_bytes_that_are_no_plan(tmp_path: Path, document: bytes, words: str) -> None:
    async def test(world: World) -> None:
        refusal = await denied(world.admin.propose("delays", document, author=OPERATOR, reason="r"))
        assert refusal.kind == "invalid"
        assert words in refusal.sentence

    in_world(tmp_path, test)


def test_the_model_may_be_left_out_of_its_plan(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        fields = msgspec.json.decode(encode(proposal()))
        del fields["model"]
        document = msgspec.json.encode(fields)
        changed = await world.admin.propose("delays", document, author=OPERATOR, reason="r")
        assert changed.plan.model == "delays"

    in_world(tmp_path, test)


@pytest.mark.parametrize("model", ["", "a b", "{x}", "a" * 129, "ü", "a\n"])
def test_no_store_is_asked_for_names_that_are_none(tmp_path: Path, model: str) -> None:
    async def test(world: World) -> None:
        world.store.go_away()
        assert (await denied(world.admin.plan(model))).kind == "unknown_model"
        assert (await denied(world.admin.status(model))).kind == "unknown_model"
        proposed = world.admin.propose(model, encode(proposal()), author=OPERATOR, reason="r")
        assert (await denied(proposed)).kind == "invalid"
        with pytest.raises(StoreAwayError):
            await world.admin.plan("delays")

    in_world(tmp_path, test)


def test_conditions_are_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        nothing = await denied(world.submit(expected_revision=1))
        assert (nothing.kind, nothing.current) == ("stale", None)
        await world.submit(must_be_new=True)
        for how, kind in (
            ({}, "unconditional"),
            ({"must_be_new": True}, "stale"),
            ({"expected_revision": 2}, "stale"),
        ):
            refusal = await denied(world.submit(**how))
            assert refusal.kind == kind
            assert refusal.current == await world.plan()
        assert (await denied(world.do(Event.START, expected_revision=2))).kind == "stale"
        assert (await world.do(Event.START, expected_revision=1)).plan.revision == 2
        replaced = await world.submit(expected_revision=2)
        assert (replaced.plan.revision, replaced.is_new) == (3, False)
        assert world.records()[-1].action == "rollout.replace"

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"event": Event.RESUME}, "state", "cannot be resumed"),
        ({"event": Event.PROMOTE, "author": OPERATOR}, "forbidden", "takes an approver"),
        ({"event": Event.PAUSE, "author": VIEWER}, "forbidden", "may look"),
        ({"event": Event.BREACH}, "forbidden", "controller's conclusion"),
        ({"event": Event.PAUSE, "author": Author("controller", "operator")}, "forbidden", "own"),
        ({"event": Event.PAUSE, "author": Author("ada", "controller")}, "forbidden", "own"),
        ({"event": Event.ABORT, "reason": ""}, "invalid", "say why"),
        ({"event": Event.ABORT, "reason": "x" * 501}, "invalid", "501 characters"),
        ({"event": Event.PAUSE, "step": 1}, "invalid", "takes no step"),
        ({"event": Event.STEP}, "invalid", "say which step, from 1 to 3"),
        ({"event": Event.STEP, "step": 0}, "invalid", "say which step, from 1 to 3"),
        ({"event": Event.STEP, "step": 4}, "invalid", "say which step, from 1 to 3"),
        ({"event": Event.STEP, "step": 4, "author": VIEWER}, "forbidden", "may look"),
        ({"event": Event.STEP, "step": 4, "reason": ""}, "invalid", "say why"),
    ],
)
def test_events_that_are_refused(
    tmp_path: Path, how: dict[str, Any], kind: str, words: str
) -> None:
    async def test(world: World) -> None:
        await world.submit(start=True)
        refusal = await denied(world.do(**how))
        assert refusal.kind == kind
        assert words in refusal.sentence
        assert len(world.records()) == world.store.writes == 2

    in_world(tmp_path, test)


def test_cold_versions_get_no_weight_and_the_way_back_needs_none(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit(start=True)
        await world.warm(frozenset())
        refusal = await denied(world.do(Event.STEP, step=3))
        assert refusal.kind == "not_warm"
        assert (await world.do(Event.ROLLBACK, reason="")).plan.state is State.ROLLED_BACK

    in_world(tmp_path, test)


def test_nothing_happens_to_a_model_without_a_plan(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await denied(world.do(Event.START))).kind == "unknown_model"

    in_world(tmp_path, test)


# -- looking --------------------------------------------------------------------------------------


def test_the_status_adds_up_what_workers_reported(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        plan = (await world.submit(with_other(), start=True)).plan
        for worker, requests in (("a", 300), ("b", 700)):
            candidate = ArmCounts(requests=requests, errors=1)
            champion = ArmCounts(requests=9 * requests, slow=2)
            stretch = Stretch(plan.revision, 0, candidate=candidate, champion=champion)
            counters = Counters(stretches=(stretch,))
            await world.store.report(worker, "delays", plan.began_revision, counters)
        world.now_s += 4
        status = await world.admin.status("delays")
        assert bytes(status.plan) == (await world.plan()).document
        assert (status.revision, status.samples, status.is_complete) == (2, 1000, False)
        champion, candidate, other = status.arms
        assert (candidate.version, candidate.arm, candidate.weight_percent) == ("4", "candidate", 1)
        assert (candidate.requests, candidate.errors, candidate.slow) == (1000, 2, 0)
        assert (candidate.share_percent, champion.share_percent) == (10.0, 90.0)
        assert (champion.requests, champion.slow) == (9000, 4)
        assert (other.arm, other.requests) == ("other", msgspec.UNSET)
        assert b'"arm":"other","weight_percent":10.0,"share_percent":null}' in msgspec.json.encode(
            status
        )
        (gateway,) = status.gateways
        assert (gateway.gateway, gateway.age_s, gateway.warm) == ("a", 4.0, ("3", "4", "5"))
        assert [one.guardrail for one in status.verdicts] == ["errors", "slow"]
        assert status.decision.action == "hold"
        assert "counters may have been lost" in status.decision.reason

    in_world(tmp_path, test)


def test_the_list_has_a_line_for_each_model(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.admin.list() == []
        names = [f"m{number:03}" for number in range(70)]
        for name in reversed(names):
            await world.submit(proposal(model=name))
        await world.warm(model="m001")
        await world.admin.change("m001", Event.START, author=OPERATOR, reason="go")
        lines = await world.admin.list()
        assert [one.model for one in lines] == names
        assert (lines[0].step, lines[0].candidate_percent) == (-1, 0.0)
        assert (lines[1].step, lines[1].steps, lines[1].candidate_percent) == (0, 3, 1.0)
        assert (lines[1].state, lines[1].reason) == ("stepping", "go")

    in_world(tmp_path, test)
