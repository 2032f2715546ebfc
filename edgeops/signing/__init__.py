"""Trust: keys, the builder's signature over a bundle, and the hub's over desired state."""
