"""The hops of a request between the fronts and the models: async, but no sockets."""
