import os
import subprocess
import sys
import threading

from loadtests import process_tree


def test_the_tree_holds_a_child_and_its_child() -> None:
    source = "import subprocess,sys; subprocess.run(['cat'])"
    child = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE)
    try:
        for _ in range(100_000):
            if len(process_tree.members(child.pid)) == 2:
                break
        assert len(process_tree.members(child.pid)) == 2
        assert child.pid in process_tree.members(os.getpid())
        assert process_tree.resident_bytes(child.pid) > 1_000_000
    finally:
        child.communicate()


def test_files_and_threads_of_the_tree() -> None:
    files, threads = process_tree.open_files(os.getpid()), process_tree.threads(os.getpid())
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    with open(os.devnull), open(os.devnull):
        thread.start()
        assert process_tree.open_files(os.getpid()) >= files + 2
        assert process_tree.threads(os.getpid()) >= threads + 1
        go_on.set()
        thread.join()


def test_the_time_of_a_child_that_ended_is_kept() -> None:
    before = process_tree.cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert process_tree.cpu_seconds(os.getpid()) - before >= 0.02


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert process_tree.cpu_seconds(2**22 + 1) == 0
    assert process_tree.resident_bytes(2**22 + 1) == 0


def test_each_core_has_its_time() -> None:
    assert process_tree.core_time(0).busy > 0
