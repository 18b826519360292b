"""Definitions, compiled: what is defined, what clashes, what may follow what."""
