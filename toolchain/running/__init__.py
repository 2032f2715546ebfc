"""Runs a plan's steps: which may start, where each runs (worker processes of this machine, or a Ray cluster),
how one that fails or is interrupted ends, and what a terminal shows meanwhile."""
