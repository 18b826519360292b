"""Servers to compare with, each one what a good engineer writes by hand, or a bare limit.

Each prints its address and `ready` the way the gateway does, so one launcher starts them all.
They must never be made slower than they need to be: a weak baseline flatters the product.
"""
