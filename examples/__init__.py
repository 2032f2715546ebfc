"""Runnable programs that use edgeops as its users do."""
