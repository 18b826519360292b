"""What can go wrong with a model, in the words of this library.

The gateway translates these at its border; nothing here may speak HTTP or gRPC.
"""

from __future__ import annotations


class ModelLoadError(Exception):
    """A model cannot be served. The message is the reason that operators read in the index."""


class FilesChanged(ModelLoadError):  # noqa: N818  nothing is wrong yet: they may be on their way
    """A version's files changed between the look at its folder and the end of its load."""


class ModelRunError(Exception):
    """The model failed while it ran on input that its signature allows."""


class InvalidModelInput(Exception):  # noqa: N818  the name says whose fault it is
    """The runtime refused the input: the caller's fault, not the model's."""


class RepositoryError(Exception):
    """The model repository as a whole cannot be read: no model of it could be served."""
