"""Where things lie in the agent's state folder, and the lock that lets only one agent use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from edgeops.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """The paths below `root`. Nothing is created here but by `make`."""

    root: Path

    @property
    def identity(self) -> Path:
        """Key, certificates and whom this device trusts; written by enrolment."""
        return self.root / "identity"

    @property
    def slots(self) -> Path:
        """Verified bundles, each in a folder named by its digest."""
        return self.root / "slots"

    @property
    def staging(self) -> Path:
        """Bundles on their way in."""
        return self.root / "staging"

    @property
    def rings(self) -> Path:
        """Telemetry rings of the serving processes."""
        return self.root / "rings"

    @property
    def run(self) -> Path:
        """What is true of running processes only: the lock and the serving processes' ids."""
        return self.root / "run"

    @property
    def update_file(self) -> Path:
        """The update machine's state."""
        return self.root / "update.json"

    @property
    def spool_file(self) -> Path:
        """The telemetry spool (SQLite)."""
        return self.root / "spool.db"

    def make(self) -> None:
        """Makes the folders, private to this user. Raises `ConfigError` if that cannot be done."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            for folder in (self.slots, self.staging, self.rings, self.run):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The agent's state folder {self.root} cannot be made ({error.strerror}).",
                remedy="Let this user write there, or choose another folder by EDGEOPS_AGENT_STATE_DIR.",
                subject=str(self.root),
            ) from error

    def lock(self) -> FileIO:
        """Takes the state folder for this process, until the returned file is closed or the process dies.

        Raises `ConfigError` when another agent has it, or the disk refuses.
        """
        path = self.run / "agent.lock"
        try:
            # Close-on-exec: a serving process that outlives its agent must not hold the lock. Unbuffered:
            # what a full disk refuses is not kept, to be refused again when the file is closed.
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be opened ({error.strerror}).",
                remedy="Check the disk, and that this user may write there.",
                subject=str(path),
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(20).decode(errors="replace").strip() or "unknown"
            file.close()
            raise ConfigError(
                f"Another agent (process {holder}) uses {self.root}.",
                remedy="Stop it, or give this one a state folder of its own by EDGEOPS_AGENT_STATE_DIR.",
                subject=str(self.root),
            ) from error
        # Who holds it is for people to read; on a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        return file
