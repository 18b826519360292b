"""Real processes on one log: they append at once, are killed, and meet a file that takes no more bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from foundation.audit import AuditLog
from foundation.audit_verifying import Line, last_lines, verify

ROOT = Path(__file__).resolve().parents[3]
PROCESS_TIMEOUT_S = 60
SEEDS = range(8)

APPENDER = """
import resource, signal, sys
from pathlib import Path
from foundation.audit import AuditError, AuditLog

path, author, count, room_bytes, on_full = sys.argv[1:]
if int(room_bytes):  # the kernel writes as much as there is room for, and then sends SIGXFSZ
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room_bytes), int(room_bytes)))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if on_full == "die" else signal.SIG_IGN)
log = AuditLog(Path(path))
print("ready", flush=True)
sys.stdin.readline()
for at in range(int(count)):
    try:
        record = log.append(author=author, role="operator", action="rollout.step", target="fraud", details={"at": at})
    except AuditError as error:
        print(f"refused {error}", flush=True)
        break
    print(record.seq, record.hash, flush=True)
"""


def start(
    path: Path, author: str, count: int, *, room_bytes: int = 0, on_full: str = "die"
) -> subprocess.Popen[str]:
    """It waits for a line on its input before it appends."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), author, str(count), str(room_bytes), on_full],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def append_here(path: Path) -> int:
    return AuditLog(path).append(author="test", role="", action="rollout.pause", target="fraud").seq


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    path, count = tmp_path / "audit.jsonl", 500
    processes = [start(path, author, count) for author in ("anna", "bert")]
    told: dict[str, list[str]] = {}

    def run(author: str, process: subprocess.Popen[str]) -> None:
        told[author] = process.communicate("go\n", timeout=PROCESS_TIMEOUT_S)[0].splitlines()

    threads = [
        threading.Thread(target=run, args=pair)
        for pair in zip(("anna", "bert"), processes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROCESS_TIMEOUT_S + 5)
    for process in processes:
        process.kill()
    done = verify(path)
    assert done.is_sound
    assert (done.records, done.torn_lines) == (2 * count, 0)
    lines = [line.content for line in last_lines(path, 2 * count)]
    for author, answers in told.items():
        written = [
            f"{line.record.seq} {line.record.hash}"
            for line in lines
            if isinstance(line, Line) and line.record.author == author
        ]
        assert answers == written
        assert len(answers) == count
    first_of_second = min(
        int(answers[0].split()[0]) for answers in told.values() if answers[0][:2] != "1 "
    )
    assert first_of_second <= count, "they were at it at the same time"


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_in_the_middle_of_appends(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    path, acknowledged = tmp_path / "audit.jsonl", random.Random(seed).randrange(1, 60)
    process = start(path, "anna", 1_000_000)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        answers = [process.stdout.readline() for _ in range(acknowledged)]
    finally:
        process.kill()
        late = process.communicate(timeout=PROCESS_TIMEOUT_S)[0].splitlines(keepends=True)
    answers += [line for line in late if line.endswith("\n")]
    last_seq, last_hash = answers[-1].split()
    done = verify(path, expect_head=last_hash)
    assert done.is_sound, "what was answered is there"
    assert int(last_seq) <= done.records <= int(last_seq) + 1
    assert append_here(path) > done.records
    assert verify(path).is_sound


@pytest.mark.parametrize("room_bytes", [1000, 1003, 1100, 1290, 1335])
def test_killed_by_the_kernel_with_half_a_record_written(tmp_path: Path, room_bytes: int) -> None:
    path = tmp_path / "audit.jsonl"
    process = start(path, "anna", 1000, room_bytes=room_bytes)
    answers = process.communicate("go\n", timeout=PROCESS_TIMEOUT_S)[0].splitlines()
    assert process.returncode == -signal.SIGXFSZ
    assert path.stat().st_size == room_bytes
    done = verify(path, expect_head=answers[-1].split()[1])
    assert (done.is_sound, done.records) == (True, len(answers))
    assert done.torn_tail_bytes > 0
    assert append_here(path) == len(answers) + 2
    after = verify(path)
    assert (after.is_sound, after.torn_tail_bytes) == (True, 0)
    assert after.torn_lines_named == (len(answers) + 1,)


def test_what_could_not_be_written_whole_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    process = start(path, "anna", 1000, room_bytes=1100, on_full="live")
    *answers, refused = process.communicate("go\n", timeout=PROCESS_TIMEOUT_S)[0].splitlines()
    assert process.returncode == 0
    assert refused == f"refused {path}: cannot be written: File too large"
    done = verify(path)
    assert (done.is_sound, done.records, done.torn_tail_bytes) == (True, len(answers), 0)
    assert append_here(path) == len(answers) + 1
