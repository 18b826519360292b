"""From options and files to a proposal: what is written, what is taken for granted, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.rollout_proposal import (
    MAX_DOCUMENT_BYTES,
    Wishes,
    WrittenError,
    document_with,
    duration_words,
    finished,
    percent_of,
    read_document,
    salt_for,
    seconds_of,
    steps_of,
    steps_words,
)
from rollout.checking import MAX_SALT_CHARACTERS, MAX_STEPS
from rollout.plan import Proposal, Shadow, Step, decode_proposal, encode

TOML = """
candidate = "2"
slo_ms = 50

[sticky]
from = "header:x-user"
salt = "pepper"

[[steps]]
percent = 10
min_time_s = 60

[[steps]]
percent = 50

[[shadows]]
version = "3"
percent = 1
salt = "own"

[[guardrails]]
kind = "errors"
tolerated = 0.02
"""


def proposal(
    wishes: Wishes, document: dict[str, Any] | None = None, champion: str = "1"
) -> Proposal:
    drawn = iter("abcdefgh")
    return finished(
        document_with("flights", wishes, document or {}), champion, lambda: next(drawn) * 8
    )


# -- how things are written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1,5,25,50,100", (1, 5, 25, 50)),
        ("1,5", (1, 5)),
        (" 0.5% , 5 %,100%", (0.5, 5)),
        ("0.0001,99.9999", (0.0001, 99.9999)),
        ("5.50000000", (5.5,)),
    ],
)
def test_steps(text: str, steps: tuple[float, ...]) -> None:
    assert steps_of(text) == steps


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "--steps is empty"),
        ("  ", "--steps is empty"),
        ("1,,5", "--steps has an empty place"),
        ("1,5,", "--steps has an empty place"),
        ("5,1", "--steps goes down from 5 to 1 %: every step must be higher than the one before"),
        ("5,5", "--steps stays at 5 %"),
        ("1,101", "--steps has 101 %: more than 100 %"),
        ("0,5", "--steps has 0 %: write more than 0"),
        ("100", "--steps has only 100, which is the promotion"),
        ("50,100,100", "--steps stays at 100 %"),
        ("-1", "'-1', which is no percentage"),
        ("nan", "'nan', which is no percentage"),
        ("1e1", "'1e1', which is no percentage"),
        ("1;5", "'1;5', which is no percentage"),
        ("٣", "which is no percentage"),
        ("0.00001", "at most 4 places"),
        (",".join(str(step + 1) for step in range(MAX_STEPS + 1)), f"at most {MAX_STEPS}"),
    ],
)
def test_steps_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(WrittenError, match=r"^--steps") as caught:
        steps_of(text)
    assert complaint in str(caught.value)


def test_the_last_100_is_no_step_among_the_bound() -> None:
    most = ",".join(str(step + 1) for step in range(MAX_STEPS))
    assert len(steps_of(f"{most},100")) == MAX_STEPS


@pytest.mark.parametrize(
    ("text", "percent"), [("10", 10), ("10%", 10), ("100", 100), ("0.5 %", 0.5)]
)
def test_percent(text: str, percent: float) -> None:
    assert percent_of(text, "--shadow") == percent


@pytest.mark.parametrize("text", ["", "ten", "101", "0", "-5", "%"])
def test_percent_that_is_none(text: str) -> None:
    with pytest.raises(WrittenError, match=r"^--shadow has "):
        percent_of(text, "--shadow")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86_400),
        ("0s", 0),
        ("1.5h", 5400),
        ("500ms", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text, "--min-time") == seconds
    assert seconds_of(f" {text.upper()} ", "--min-time") == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-5m", "5 minutes", "1h30m", "5M5", "inf s"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(WrittenError, match=r"--min-time .* is no duration: .* 30s, 5m or 2h"):
        seconds_of(text, "--min-time")


def test_durations_are_shown_as_they_are_written() -> None:
    for text in ("30s", "5m", "2h", "36h", "1d", "90s", "0s", "0.5s"):
        assert duration_words(seconds_of(text, "--min-time")) == text


# -- what is taken for granted --------------------------------------------------------------------


def test_a_candidate_is_enough() -> None:
    made = proposal(Wishes(candidate="2"))
    assert (made.model, made.champion, made.candidate) == ("flights", "1", "2")
    assert [step.percent for step in made.steps] == [1, 5, 25, 50]
    assert {(step.min_time_s, step.min_samples) for step in made.steps} == {(300, 1000)}
    assert (made.sticky.source, made.sticky.salt) == ("request_id", "flights-aaaaaaaa")
    assert (made.shadows, made.deadline_s) == ((), 86_400)
    assert decode_proposal(encode(made)) == made


def test_options_are_for_all_steps_and_the_copies_before() -> None:
    made = proposal(
        Wishes(
            candidate="2",
            champion="7",
            steps_percent=(10, 20),
            min_time_s=30,
            min_samples=50,
            sticky="input:user_id",
            shadow_percent=10,
            slo_ms=20,
        )
    )
    assert made.champion == "7", "named, so it is not the one that answers now"
    assert made.steps == tuple(Step(percent=at, min_time_s=30, min_samples=50) for at in (10, 20))
    assert made.shadows == (Shadow(version="2", percent=10, salt="flights-bbbbbbbb"),)
    assert (made.shadow_min_time_s, made.shadow_min_samples, made.slo_ms) == (30, 50, 20)
    assert made.sticky.salt != made.shadows[0].salt, "or the copies would go with the split"


def test_a_slow_rollout_gets_a_later_deadline() -> None:
    assert proposal(Wishes(candidate="2", min_time_s=43_200)).deadline_s == 86_400
    assert proposal(Wishes(candidate="2", min_time_s=86_400)).deadline_s == 172_800
    with pytest.raises(WrittenError) as caught:
        proposal(Wishes(candidate="2", min_time_s=86_400), {"deadline_s": 3600})
    assert "the deadline must be later" in caught.value.faults[0]


def test_salts_fit() -> None:
    assert salt_for("flights", "12345678") == "flights-12345678"
    long = salt_for("m" * 128, "12345678")
    assert len(long) == MAX_SALT_CHARACTERS
    assert long.endswith("m-12345678")


# -- files ----------------------------------------------------------------------------------------


def test_a_file_says_everything() -> None:
    written = read_document(TOML.encode(), "plan.toml")
    made = proposal(Wishes(), written)
    assert made.steps == (Step(percent=10, min_time_s=60), Step(percent=50))
    assert (made.sticky.source, made.sticky.salt, made.slo_ms) == ("header:x-user", "pepper", 50)
    assert made.shadows[0].salt == "own"
    assert made.guardrails[0].tolerated == 0.02
    as_json = read_document(msgspec.json.encode(written), "plan.JSON")
    assert proposal(Wishes(), as_json) == made


def test_options_overrule_the_file_and_leave_the_rest() -> None:
    written = read_document(TOML.encode(), "plan.toml")
    before = msgspec.json.encode(written)
    made = proposal(
        Wishes(candidate="4", sticky="parameter:u", min_samples=7, shadow_percent=5, slo_ms=9),
        written,
    )
    assert made.candidate == "4"
    assert (made.sticky.source, made.sticky.salt) == ("parameter:u", "pepper")
    assert [(one.percent, one.min_time_s, one.min_samples) for one in made.steps] == [
        (10, 60, 7),
        (50, 300, 7),
    ]
    assert [(one.version, one.percent) for one in made.shadows] == [("3", 1), ("4", 5)]
    assert made.slo_ms == 9
    assert msgspec.json.encode(written) == before, "the file's document was changed"


def test_a_shadow_of_the_candidate_in_the_file_gets_the_options_percent() -> None:
    written = {"candidate": "3", "shadows": [{"version": "3", "percent": 1, "salt": "own"}]}
    made = proposal(Wishes(shadow_percent=50), written)
    assert made.shadows == (Shadow(version="3", percent=50, salt="own"),)


def test_a_plan_that_only_shadows_has_no_steps() -> None:
    made = proposal(Wishes(), {"shadows": [{"version": "2", "percent": 5}]})
    assert (made.candidate, made.steps, made.shadows[0].salt) == ("", (), "flights-bbbbbbbb")
    with pytest.raises(WrittenError, match="name it with --to"):
        proposal(Wishes(shadow_percent=5))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("p.toml", b"[sticky", "p.toml is not valid TOML"),
        ("p.json", b"{", "p.json is not valid JSON"),
        ("p.json", b"[1]", "p.json holds no proposal: it must be one JSON object"),
        ("p.toml", b"\xff", "p.toml is not valid TOML"),
        ("p.json", b"[" * 100_000, "p.json is not valid JSON"),
        ("p.toml", b"#" * (MAX_DOCUMENT_BYTES + 1), f"more than {MAX_DOCUMENT_BYTES} bytes"),
    ],
)
def test_files_that_are_none(name: str, content: bytes, complaint: str) -> None:
    with pytest.raises(WrittenError) as caught:
        read_document(content, name)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"model": "other"}, "the file is for model other, and you name flights"),
        ({"sticky": "request_id"}, "'sticky' must be a table"),
        ({"steps": [1, 5]}, "'steps' must be a list of tables"),
        ({"shadows": {"version": "2"}}, "'shadows' must be a list of tables"),
        ({"stepps": []}, "unknown field `stepps`"),
        ({"slo_ms": "fast"}, "Expected `float`, got `str` - at `$.slo_ms`"),
        ({"steps": [{"percent": float("nan")}]}, "Expected `float`, got `null`"),
        ({"format": 2}, "format 2"),
        ({"candidate": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_documents_that_are_none(document: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrittenError) as caught:
        proposal(Wishes(), {"candidate": "2", **document})
    assert complaint in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(WrittenError) as caught:
        proposal(Wishes(candidate="1", sticky="cookie:x", slo_ms=0))
    told = "\n".join(caught.value.faults)
    for words in ("champion and candidate are both version 1", "sticky.from", "slo_ms is 0"):
        assert words in told


def test_steps_in_words() -> None:
    alike = (Step(percent=1), Step(percent=5.5))
    assert steps_words(alike) == "1 %, 5.5 %, each for at least 5m and 1,000 requests"
    assert steps_words(alike[:1]) == "1 %, for at least 5m and 1,000 requests"
    mixed = steps_words((Step(percent=1, min_time_s=90), Step(percent=5, min_samples=2)))
    assert mixed == "1 % for at least 90s and 1,000 requests, 5 % for at least 5m and 2 requests"
