"""Hugging Face's libraries without network, telemetry, progress bars and chatter, and without a slow import
for what no step uses. Import this before them."""

from __future__ import annotations

import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DO_NOT_TRACK": "1",
        # Its threads would outlive a fork, and one is fast enough for short texts.
        "TOKENIZERS_PARALLELISM": "false",
    }
)

import transformers.utils.import_utils  # which reads them

# For one curve, which its assisted generation needs, it imports all of scikit-learn, which takes a third of
# its own time. No variable prevents that.
transformers.utils.import_utils._sklearn_available = False


def hush() -> None:
    """Turns off what transformers and optimum write while they work. What matters is raised."""
    import optimum.utils.logging

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    optimum.utils.logging.set_verbosity_error()
