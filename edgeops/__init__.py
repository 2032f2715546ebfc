"""The ground floor of edgeops: contracts, engines, serving protocols and the command dispatcher."""

import os

__version__ = "0.1.0"

# ONNX Runtime's wheels (1.29 and later) send usage data to Microsoft and keep a device id in the user's
# cache folder, unless this is set before its first import (microsoft/onnxruntime, docs/Privacy.md).
# Nothing leaves a machine that its operator did not ask for, so: off, unless the operator says otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
