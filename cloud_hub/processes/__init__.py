"""The hub as processes: what must be there before it starts, the supervisor, and its roles."""
