"""From a request to a durable window: ring, collector, spool."""
