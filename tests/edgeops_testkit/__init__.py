"""What tests of several parts share: small real bundles, keys, waiting."""
