"""Which version answers whom, and when that changes: plans, splits, evidence and verdicts."""
