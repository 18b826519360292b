"""What is made of perf_analyzer's CSV, which rows it is given, and what the page says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests import perf_analyzer_tool
from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator
from loadtests.perf_analyzer_report import (
    Circumstances,
    Figures,
    Outcome,
    Trial,
    figures_table,
    page,
    parse,
    trials_table,
)
from loadtests.perf_analyzer_rows import OPTIONS, rows

PLAIN = """\
Concurrency,Inferences/Second,Client Send,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
16,17626.9,19,0,798,1374,1522,1986
"""
WITH_STATISTICS = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
1,4968.8,32,100,5,1,22,2,0,189,245,273,335
"""
RATE = """\
Request Rate,Inferences/Second,Client Send,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
1000,976.8,1,0,228,313,352,503
"""
FIGURES = Figures(1000.0, 100.0, 200.0, 300.0, {})


def circumstances(window_ms: int = 5000, extensions: tuple[str, ...] = ()) -> Circumstances:
    return Circumstances("today", "python -m it", window_ms, {"CPU": "one"}, extensions)


def test_figures_are_read() -> None:
    assert parse(PLAIN) == Figures(17626.9, 798, 1522, 1986, {})
    assert parse(RATE).per_second == 976.8


def test_what_the_server_says_of_itself_is_read_where_it_does() -> None:
    said = parse(WITH_STATISTICS)
    assert said.server_us == {"queue": 5, "input": 1, "infer": 22, "output": 2}
    assert "| 5 · 1 · 22 · 2 |" in figures_table([Outcome("row", ("-m",), said)])


@pytest.mark.parametrize(
    "text", ["", PLAIN.splitlines()[0], PLAIN + "17,1,1,1,1,1,1,1\n", "a\n1\n"]
)
def test_a_csv_that_is_not_one_line_of_figures_is_an_error(text: str) -> None:
    with pytest.raises(BenchError, match="perf_analyzer wrote"):
        parse(text)


def test_both_fronts_get_closed_and_open_loops() -> None:
    made = rows(rate=700, with_stream=True)
    assert len({row.name for row in made}) == len(made) == 12
    for front in ({"json"}, {"--streaming"}):
        assert len([row for row in made if front <= set(row.arguments)]) == 3
    opened = [row for row in made if "--request-rate-range" in row.arguments]
    assert len(opened) == 4
    for row in opened:
        assert {"--async", "poisson", "700"} <= set(row.arguments)
    assert {row.protocol for row in made} == {"http", "grpc"}


def test_without_a_stream_none_is_asked_for() -> None:
    assert not [row for row in rows(1, with_stream=False) if "--streaming" in row.arguments]


def test_a_row_that_failed_stays_on_the_page_with_its_reason() -> None:
    failed = Outcome("gRPC, c1", ("-m", "tiny"), why_not="perf_analyzer failed:\nno | server\n")
    said = page(circumstances(), [Outcome("REST, c1", ("-m", "x y"), FIGURES), failed])
    assert "| gRPC, c1 | *no / server* |" in said
    assert "perf_analyzer -m 'x y'" in said
    assert "perf_analyzer -m tiny" in said


def test_short_windows_and_disturbed_rows_are_not_passed_off_as_measurements() -> None:
    quiet = [Outcome("a", ("-m",), FIGURES, others_on_a_core=0.02)]
    assert "Smoke run" not in page(circumstances(), quiet)
    assert "Smoke run" in page(circumstances(window_ms=500), quiet)
    assert "1 of 1 rows" in page(
        circumstances(), [Outcome("a", ("-m",), FIGURES, others_on_a_core=0.4)]
    )
    unsteady = page(circumstances(), [Outcome("a", ("-m",), FIGURES, steady=False)])
    assert "1,000 (unsteady)" in unsteady
    assert "*Unsteady*" in unsteady
    assert "nsteady" not in page(circumstances(), quiet)


def test_the_page_says_whether_the_server_was_asked() -> None:
    assert "advertises no statistics" in page(circumstances(), [])
    assert "come" in page(circumstances(extensions=("statistics",)), [])
    assert "advertises no statistics" not in page(circumstances(extensions=("statistics",)), [])


def test_an_option_that_does_not_do_what_was_told_stands_out() -> None:
    works, refused = (Trial("a", "http", "-b 8", True, refusal) for refusal in ("", "x\nno"))
    assert (works.is_as_told, refused.is_as_told) == (True, False)
    assert "| a | REST | `-b 8` | works |" in trials_table([works])
    assert "**not as it should be:** refused: *no*" in page(circumstances(), [], [refused])
    known = Trial("a", "grpc", "-b 8", False, "x\nno")
    assert known.is_as_told
    assert "| a | gRPC | `-b 8` | refused: *no* |" in trials_table([known])
    assert not Trial("a", "grpc", "-b 8", False, "").is_as_told


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Thread [0] had error: not this\nThread [1] had error: not this\n", "not this"),
        ("error: no such method\nUnable to clean up", "no such method"),
        ("measuring\ngave up", "gave up"),
    ],
)
def test_the_reason_is_the_line_that_speaks_of_the_error(said: str, reason: str) -> None:
    assert f"refused: *{reason}*" in trials_table([Trial("a", "http", "-x", False, said)])


def test_options_are_tried_that_are_refused_as_well() -> None:
    assert {option.is_offered for option in OPTIONS} == {True, False}


def program(folder: Path, says: str) -> LoadGenerator:
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return LoadGenerator(path)


def test_the_version_is_what_the_program_says(tmp_path: Path) -> None:
    tool = program(tmp_path, "Perf Analyzer Version 2.51.0 (commit unknown)")
    assert perf_analyzer_tool.version(tool) == "2.51.0"


def test_the_placeholder_on_the_package_index_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not perf_analyzer"):
        perf_analyzer_tool.version(program(tmp_path, "hello"))
    with pytest.raises(BenchError, match="does not run"):
        perf_analyzer_tool.version(LoadGenerator(tmp_path / "absent"))


def test_an_unpacked_program_is_taken_with_its_libraries(tmp_path: Path) -> None:
    unpacked = tmp_path / "perf_analyzer" / "bin" / "perf_analyzer"
    library = tmp_path / "root" / "usr" / "lib" / "x86_64-linux-gnu" / "libb64.so.0d"
    for file in (unpacked, library):
        file.parent.mkdir(parents=True)
        file.touch()
    tool = perf_analyzer_tool.find(tmp_path)
    assert tool.path == unpacked
    places = tool.environment["LD_LIBRARY_PATH"].split(":")
    assert str(library.parent) in places
    assert str(tmp_path / "perf_analyzer" / "nvidia" / "cuda_runtime" / "lib") in places
