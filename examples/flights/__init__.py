"""Will this flight arrive late? A real model on real data, from tables to answers over the wire.

``python -m examples.flights.train`` builds the model, ``python -m examples.flights.demo`` serves it
and asks it.
"""
