"""Examples that run from a checkout. None is installed, and nothing installed imports them."""
