"""Library: models turned into answers. Knows models and runtimes; must never know sockets or
requests.
"""
