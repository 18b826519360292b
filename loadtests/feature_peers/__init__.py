"""The lookup bench's peers: each looks the same features up in process, its own way, and says how long that took."""
