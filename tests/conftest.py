"""For all tests. Importing edgeops before any test imports ONNX Runtime turns that one's telemetry off."""

import edgeops

__all__ = ["edgeops"]
