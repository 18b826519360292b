"""A private server that processes share: the first one starts it, the last one ends it, anybody mends it.

Two locks decide everything, and the kernel lets go of both whatever happens to their holders:

``server.lock``  is inherited by the server, so it is held exactly while a server lives. Whoever gets it has thereby the
                 right and the duty to start one. Two that start at once: one gets it, the other finds a server. A
                 stale socket or pid file means nothing and is swept away by whoever has this lock.
``users.lock``   is held shared by every process that uses the store. Who leaves tries to hold it alone: that succeeds
                 for exactly the last one, who ends the server and keeps newcomers waiting meanwhile. So a short
                 command that started the server does not take it away from a gateway that came later.

A process killed with SIGKILL ends nothing: its server lives on for the others, and without others it waits, with its
data on the disk, for the next one to come, who ends it as the last. A server killed with SIGKILL is started again by
the first process whose ``tend`` sees it; what it had answered is in the append-only file.

Nothing here may end a server that others use, or wait on the thread that calls ``tend``.
"""

from __future__ import annotations

import logging
import os
import threading

from foundation.flocks import FileLock, can_lock, try_lock
from foundation.store_folder import StoreError, StoreFolder
from foundation.store_server import Health, end, health, launch, server_pid, wait_until
from foundation.store_url import unix_url

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
CALM_AFTER_S = 60.0
"""A server that lived that long was sound: its end is answered without a pause again."""

logger = logging.getLogger("headrace.store")


class PrivateServer:
    """A process's share in the server of ``folder``: ``open``, then ``tend`` now and then, then ``close``."""

    def __init__(
        self,
        folder: StoreFolder,
        *,
        max_memory_bytes: int,
        start_timeout_s: float,
        stop_timeout_s: float,
    ) -> None:
        self._folder = folder
        self._max_memory_bytes = max_memory_bytes
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._use: FileLock | None = None
        self._opened_in = 0
        self._pid_at_open: int | None = None
        self._mending: threading.Thread | None = None
        self._mended_s = float("-inf")
        self._pause_s = FIRST_PAUSE_S
        self.trouble = ""
        """Why the server is away, after a start that did not help."""

    @property
    def url(self) -> str:
        """Where the server listens now."""
        return unix_url(self._folder.socket)

    # -- coming -----------------------------------------------------------------------------------

    def open(self, load_timeout_s: float | None) -> None:
        """Find the server or start it; with a timeout also wait until it has its data. Raises ``StoreError``."""
        self._folder.prepare()
        try:
            self._enter()
            self._find_or_start()
            if load_timeout_s is not None:
                self._await_data(load_timeout_s)
        except BaseException as error:
            try:
                self.close()
            except StoreError as late:
                error.add_note(str(late))
            if isinstance(error, OSError):  # of a lock; all else was said already
                raise StoreError(
                    f"{error.filename or self._folder.path}: {error.strerror or error}; locks are needed there: set "
                    "[store] state_dir to a folder on a local disk"
                ) from error
            raise
        self._pid_at_open = server_pid(self._folder)

    def _enter(self) -> None:
        """Become one of the users; waits for a last one that is just ending the server."""
        use = FileLock(self._folder.users_lock)
        leaving_s = self._start_timeout_s + 2 * self._stop_timeout_s
        try:
            entered = wait_until(lambda: use.take(shared=True), leaving_s)
        except BaseException:
            use.close()
            raise
        if not entered:
            use.close()
            raise StoreError(
                f"the private store in {self._folder.path} is being ended by another process for more than "
                f"{leaving_s:g} s; try again, or look what holds {self._folder.users_lock}"
            )
        self._use, self._opened_in = use, os.getpid()

    def _find_or_start(self) -> None:
        """Until a server answers. We start one at most once: one that ends by itself does so again."""
        tried = False

        def answers() -> bool:
            nonlocal tried
            if health(self._folder.socket) is not Health.SILENT:
                return True
            lock = try_lock(self._folder.server_lock)
            if lock is None:
                return False  # somebody's server is on its way
            with lock:
                if tried:
                    raise StoreError(
                        f"the private store's server ended at once; {self._folder.last_words()}"
                    )
                tried = True
                self._launch(lock)
            return False

        if not wait_until(answers, self._start_timeout_s):
            pid = server_pid(self._folder)
            raise StoreError(
                f"the private store's server (process {pid or 'unknown'}) does not answer on {self._folder.socket} "
                f"after {self._start_timeout_s:g} s; if it hangs, end it and try again; "
                + self._folder.last_words()
            )

    def _await_data(self, timeout_s: float) -> None:
        def is_ready() -> bool:
            found = health(self._folder.socket)
            if found is Health.SILENT and can_lock(self._folder.server_lock):
                raise StoreError(
                    "the private store's server ended while it read its data back; "
                    + self._folder.last_words()
                )
            return found is Health.READY

        if not wait_until(is_ready, timeout_s):
            raise StoreError(
                f"the private store in {self._folder.path} has not read its data back after {timeout_s:g} s; give it "
                "more time with [store] load_timeout_s"
            )

    def _launch(self, lock: FileLock) -> None:
        launch(
            self._folder,
            lock,
            max_memory_bytes=self._max_memory_bytes,
            timeout_s=self._start_timeout_s,
        )

    # -- staying ----------------------------------------------------------------------------------

    def tend(self, now_s: float) -> None:
        """Start a server when there is none; see ``Store.tend``."""
        if self._use is None or (self._mending is not None and self._mending.is_alive()):
            return
        if now_s - self._mended_s > CALM_AFTER_S:
            self._pause_s = FIRST_PAUSE_S
        try:
            lock = try_lock(self._folder.server_lock)
        except OSError as error:
            self._complain(
                f"{self._folder.server_lock}: {error.strerror or error}; the private store's folder is gone: start anew"
            )
            return
        if lock is None:  # a server lives
            self.trouble = ""
            return
        if now_s - self._mended_s < self._pause_s:
            lock.close()  # another process may be luckier
            if not self.trouble:
                self._complain(
                    f"the private store's server ended again; {self._folder.last_words()}"
                )
            return
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._mended_s = now_s
        self._mending = threading.Thread(
            target=self._mend, args=(lock,), name="store-mending", daemon=True
        )
        self._mending.start()

    def _mend(self, lock: FileLock) -> None:
        logger.warning("the private store's server is gone; starting it again on its data")
        try:
            with lock:
                self._launch(lock)
        except StoreError as error:
            self._complain(str(error))

    def _complain(self, trouble: str) -> None:
        if trouble != self.trouble:  # once, not at every look
            logger.error("%s", trouble)
        self.trouble = trouble

    # -- going ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave; the last one ends the server. See ``Store.close``."""
        use, self._use = self._use, None
        if use is None:
            return
        with use:
            if os.getpid() != self._opened_in:
                return  # a forked child's copy: the share is its parent's, and must not be converted here
            if self._mending is not None:
                self._mending.join(self._start_timeout_s + 1.0)
            # A conversion gives up the shared lock before it asks for the other one. So of several that leave at once
            # each one's share is gone by the time the last of them asks, and that one gets it.
            if not use.take():
                return
            try:
                end(self._folder, self._stop_timeout_s)
            except FileNotFoundError:
                raise StoreError(
                    f"{self._folder.path} was removed while it was in use, so its server could not be ended; it was "
                    f"process {self._pid_at_open or 'unknown'}: end that by hand"
                ) from None
