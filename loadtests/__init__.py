"""The benchmark harness: what a request costs, next to honest baselines.

It measures running servers from the outside and states what it measured. It must never import
the product's own packages: a harness that shares code with what it judges inherits its mistakes.
"""
