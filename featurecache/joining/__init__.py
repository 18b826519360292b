"""What a caller sent and what the store had, made into a model's inputs."""
