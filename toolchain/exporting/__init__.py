"""From a model to the unquantized file of each format."""
