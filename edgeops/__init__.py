"""The ground floor of edgeops: contracts, engines, serving protocols and the command dispatcher."""

__version__ = "0.1.0"
