"""Key pairs for tests, made by the code that users make theirs with."""

from dataclasses import dataclass
from pathlib import Path

from edgeops.signing.keys import PublicKey, keyring, load_public_key, new_key


@dataclass(frozen=True)
class KeyPair:
    """The two files of a key pair."""

    private: Path
    public: Path

    @property
    def public_key(self) -> PublicKey:
        return load_public_key(self.public)

    @property
    def ring(self) -> dict[str, PublicKey]:
        """The public key alone, by key id, as verification takes it."""
        return keyring([self.public_key])


def make_keys(folder: Path, name: str = "builder") -> KeyPair:
    """A new P-256 key pair in `folder`."""
    return KeyPair(*new_key(name, folder))
