"""What must be there before any role of the hub starts."""

from __future__ import annotations

import shutil

from sqlalchemy.exc import DatabaseError

from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database, unusable
from cloud_hub.store.migrate import upgrade
from cloud_hub.trust import authority
from cloud_hub.trust.access import prepare_operator_token
from cloud_hub.trust.enrolment import publish_revocations
from edgeops.errors import ConfigError
from edgeops.signing.keys import load_public_keys


def prepare(settings: HubSettings) -> None:
    """Makes folders, keys, certificates, the operator's token and the database's newest schema.

    Safe to repeat, and to cut at any point. Raises `ConfigError` when the folder cannot be written, its
    disk is nearly full, or what is there cannot be used.
    """
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Keys and the operator's token lie below.
        folder.chmod(0o700)
        settings.builders_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The hub's state folder {folder} cannot be made ({error.strerror}).",
            remedy="Choose another with EDGEOPS_HUB_STATE_DIR or EDGEOPS_HOME.",
            subject=str(folder),
        ) from error
    _check_disk(settings)
    hub_authority = authority.prepare(settings)
    prepare_operator_token(settings)
    # A damaged one would otherwise be told of at the next publication.
    load_public_keys(settings.builders_path)
    BlobStore(folder / "blobs", settings.blob_size_bytes).sweep()
    engine = open_database(settings)
    try:
        upgrade(engine)
        publish_revocations(engine, hub_authority)
    except DatabaseError as error:
        raise unusable(engine, error) from error
    finally:
        engine.dispose()


def _check_disk(settings: HubSettings) -> None:
    free_bytes = shutil.disk_usage(settings.state_dir).free
    if free_bytes < settings.free_disk_bytes:
        raise ConfigError(
            f"The disk that holds {settings.state_dir} has only {free_bytes >> 20} MiB free.",
            remedy=f"Free at least {settings.free_disk_bytes >> 20} MiB, or move the hub's state with"
            " EDGEOPS_HUB_STATE_DIR.",
            subject=str(settings.state_dir),
        )
