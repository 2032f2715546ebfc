"""Where edgeops keeps things. `EDGEOPS_HOME` moves all of it; else the platform's usual folders."""

import os
from dataclasses import dataclass
from pathlib import Path

from edgeops.errors import ConfigError


@dataclass(frozen=True)
class Home:
    """The three roots: settings, state that must not be lost, and what can be made again."""

    config: Path
    state: Path
    cache: Path


def home() -> Home:
    """The roots in force. Nothing is created here; whoever writes makes its own folder.

    Raises `ConfigError` for an account without a home folder, such as a service's, unless it is told of one.
    """
    override = os.environ.get("EDGEOPS_HOME")
    if override:
        root = Path(override).expanduser().absolute()
        return Home(root / "config", root / "state", root / "cache")
    from platformdirs import PlatformDirs

    dirs = PlatformDirs("edgeops", appauthor=False)
    try:
        return Home(dirs.user_config_path, dirs.user_state_path, dirs.user_cache_path)
    except RuntimeError as error:
        raise ConfigError(
            "This account has no home folder to keep settings and state in.",
            remedy="Name a folder with EDGEOPS_HOME, or set HOME.",
            subject="EDGEOPS_HOME",
        ) from error
