"""Unix sockets: claiming a path, and giving it back.

Decides whether what lies at a path may be replaced: the socket of a dead process may, that of a living one may not,
and neither may any other file. Whoever claims a path gives it back; it must never remove the socket of another.
"""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from gateway.edge.listeners import BACKLOG, ListenError

PROBE_TIMEOUT_S = 1.0


def listen_on_path(path: str, mode: int, setting: str) -> socket.socket:
    """A listening socket at ``path`` that nobody serves yet, in a file with the permissions ``mode``."""
    free_path(path, setting)
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(path)
        Path(path).chmod(mode)  # nobody can connect before it listens
        claimed.listen(BACKLOG)
        claimed.setblocking(False)
    except OSError as error:
        claimed.close()
        raise _not_claimed(path, setting, error) from None
    return claimed


def free_path(path: str, setting: str) -> None:
    """Remove what a dead process left there; raises ``ListenError`` for a living one's socket and for other files."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise ListenError(f"{path} exists and is no socket; choose another path with {setting}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT_S)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
        return
    except OSError as error:
        if not isinstance(error, TimeoutError | BlockingIOError):  # too busy to answer, so alive
            raise _not_claimed(path, setting, error) from None
    raise ListenError(
        f"{path} is served by another process; stop it or choose another path with {setting}"
    )


def give_back(path: str) -> None:
    """Remove the path of a socket that was claimed here; connections that are under way go on."""
    Path(path).unlink(missing_ok=True)


def _not_claimed(path: str, setting: str, error: OSError) -> ListenError:
    return ListenError(f"cannot listen on {path} ({setting}): {error.strerror or error}")
