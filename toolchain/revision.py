"""Which revision of which repository a build was made from. It is told beside the identity, not in it: the
digest follows from the content of what took part, and a commit that touches none of that changes nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import edgeops
from edgeops import __version__

REVISION_SCHEMA = "1.0"
_TIMEOUT_S = 60


def revision_record(recipe_folder: Path) -> dict[str, Any]:
    """What `provenance/revision.json` holds: the state of the repository around the recipe, and of edgeops'
    own where it runs from a checkout. No paths, no names of people or branches."""
    return {
        "schema_version": REVISION_SCHEMA,
        "recipe": source_revision(recipe_folder),
        "edgeops": {"version": __version__, **source_revision(Path(edgeops.__path__[0]))},
    }


def source_revision(folder: Path) -> dict[str, Any]:
    """`revision`: the commit that is checked out in the Git repository around `folder`. `dirty`: whether
    anything in that repository differs from it, new files included (ignored ones not). Both None where
    there is no repository, no commit or no git, or where the repository does not track files of `folder`
    (such as a virtual environment inside a checkout)."""
    if not _git(folder, "ls-files", "--", "."):
        return {"revision": None, "dirty": None}
    revision = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    if revision is None or changes is None:
        return {"revision": None, "dirty": None}
    return {"revision": revision.strip(), "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None if it fails or is not there."""
    # Another repository's GIT_DIR must not decide; and looking must not lock or write the index.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
