"""Where rows are read from: one server, Sentinel, a cluster, memory."""
