"""Feast's Redis store, read only."""
