"""The tests. A package, so that no installed distribution's ``tests`` can stand in its place."""
