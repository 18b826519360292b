"""What every Headrace process needs before it is anything in particular."""
