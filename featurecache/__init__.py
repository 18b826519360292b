"""Online features: defined once, packed into rows, looked up in time, joined into a model's inputs."""
