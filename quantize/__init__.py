"""Quantizers: one file per format and scheme. They take model files and know nothing of recipes."""
