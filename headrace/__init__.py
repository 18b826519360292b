"""The command: parses, calls, prints."""

__version__ = "0.1.0"
