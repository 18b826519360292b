"""Decides what a server's processes cost: CPU time and resident memory, from /proc.

It counts the whole tree below one process, also children that came and went. It must never
guess: a process that vanished while it was read is left out, and its parent has its time.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat counted from the one after the command's name (state is 0).
_PARENT, _UTIME, _CSTIME, _THREADS = 1, 11, 14, 17


@dataclass(frozen=True, slots=True)
class CoreTime:
    """What one core did since boot, in seconds: all it worked, and what the host took away."""

    busy: float
    stolen: float

    @property
    def used(self) -> float:
        """All that was not idle, here or on the host."""
        return self.busy + self.stolen


def members(root: int) -> list[int]:
    """The process and all below it that are alive now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[_PARENT]), []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """User plus system time of the tree, with that of children already waited for."""
    ticks = 0
    for pid in members(root):
        fields = _stat(pid)
        if fields:
            ticks += sum(int(field) for field in fields[_UTIME : _CSTIME + 1])
    return ticks / _TICKS_PER_SECOND


def resident_bytes(root: int) -> int:
    """VmRSS summed over the tree; a page that two processes share counts twice."""
    total = 0
    for pid in members(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def open_files(root: int) -> int:
    """File descriptors of the tree: sockets, files, pipes."""
    total = 0
    for pid in members(root):
        try:
            total += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
    return total


def threads(root: int) -> int:
    """Threads of the tree."""
    total = 0
    for pid in members(root):
        fields = _stat(pid)
        if fields:
            total += int(fields[_THREADS])
    return total


def core_time(core: int) -> CoreTime:
    """Reads /proc/stat, to tell how much of a core went to others than the server."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            busy = user + nice + system + irq + softirq
            return CoreTime(busy / _TICKS_PER_SECOND, steal / _TICKS_PER_SECOND)
    raise ValueError(f"this machine has no core {core}")


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The command's name stands in brackets and may hold spaces and brackets itself.
    return text.rpartition(")")[2].split()
