"""What differs: between two bundles (`edgeops diff`), and between two builds that should be the same
(`edgeops build --check-reproducible`)."""
