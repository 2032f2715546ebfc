"""The steps of a build. Each module has `run(context)`; they run in the step worker, never in the
process that holds the builder's key."""
