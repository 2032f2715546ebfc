"""The registry of published bundles, and the blobs that they are made of."""
