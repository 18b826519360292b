"""The data plane: receives predictions calls, batches them, answers them."""
