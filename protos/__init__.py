"""The languages between processes.

Each language is one ``.proto`` file written for people, its compiled ``.binpb`` (committed, so
that nobody needs a compiler to run Headrace), a module of message classes and a ``.pyi`` with
their types. ``make protos`` writes the compiled files anew. This package imports protobuf and
nothing of ours.
"""
