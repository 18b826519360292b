"""Several worker processes that behave as one instance: who lives, who is told what, and one answer from many."""
