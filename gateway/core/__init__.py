"""Decisions: pure classes. Time comes in as an argument, values go out; no clock, loop or socket."""
