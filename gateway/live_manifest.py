"""The manifest as it lies in its file now, for those who work with it while the gateway runs.

Decides when the file is read again: when it has changed. It must never put a manifest that cannot be used in the place
of one that could. Models keep the definitions that they were loaded with.
"""

from __future__ import annotations

import logging
import threading

from featurecache.errors import FeatureError
from featurecache.manifests.manifest import Manifest
from gateway.errors import ErrorCode, HeadraceError
from gateway.feature_serving import manifest_path, read_manifest
from gateway.settings import FeatureSettings

logger = logging.getLogger("headrace.features")


class LiveManifest:
    """Asked from threads: it looks at the file system."""

    def __init__(self, settings: FeatureSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._manifest: Manifest | None = None

    def get(self) -> Manifest:
        """The same object for as long as the file stays; NOT_READY while there never was one that could be used."""
        with self._lock:
            path = manifest_path(self._settings)
            try:
                found = path.stat()
                # Of the times, the one that a change of rights moves, too: a file may become readable.
                stamp: tuple[int, ...] = (found.st_ctime_ns, found.st_ino, found.st_size)
            except OSError:
                stamp = ()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._manifest = read_manifest(path)
                except FeatureError as error:
                    logger.error("the manifest cannot be used; the one before stays: %s", error)
            if self._manifest is None:
                raise HeadraceError(
                    ErrorCode.NOT_READY,
                    "the definitions of features cannot be read; the server's log says why",
                )
            return self._manifest
