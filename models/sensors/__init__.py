"""Faults of rotating machines from vibration: generated measurements, a small network and a committee."""
