"""Rows into the store: compare-and-set, loads that resume, and single rows shown to people."""
