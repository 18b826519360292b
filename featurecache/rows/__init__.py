"""Packed rows: where columns lie, how values become bytes, under which key."""
