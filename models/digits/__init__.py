"""Handwritten digits: the UCI set that ships with scikit-learn, a CNN teacher and small students."""
