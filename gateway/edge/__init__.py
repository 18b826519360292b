"""The fronts and their codecs: bytes in, bytes out. Translates errors; must never decide."""
