"""Rows for requests, in time: one read for all who ask, copies, and what happens when the store does not answer."""
