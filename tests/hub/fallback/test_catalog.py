"""Which bundle answers for a name: precedence of versions, and a registry that was tampered with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from cloud_hub.fallback.catalog import Catalog, precedence
from cloud_hub.store import schema
from cloud_hub.store.database import writing
from cloud_hub.trust.access import Services
from edgeops.errors import NotFoundError
from edgeops_testkit.gateway import make_and_publish, set_lifecycle

# https://semver.org, section 11, and a few more.
PRE_RELEASES = ["alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
ORDERED = [
    "0.9.10",
    *(f"1.0.0-{each}" for each in PRE_RELEASES),
    *("1.0.0", "1.0.1", "1.2.0", "1.10.0-1", "1.10.0", "10.0.0"),
]


@given(versions=st.permutations(ORDERED))
def test_versions_sort_as_semver_says(versions: list[str]) -> None:
    assert sorted(versions, key=precedence) == ORDERED


def test_a_manifest_changed_in_the_database_is_not_served(
    services: Services, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = make_and_publish(services, tmp_path)
    with writing(services.engine) as connection:
        table = schema.bundles
        data = connection.execute(select(table.c.manifest)).scalar_one()
        connection.execute(update(table).values(manifest=data.replace(b"teacher", b"another")))
    catalog = Catalog(services.engine)
    assert not catalog.was_read
    catalog.refresh()
    assert catalog.was_read
    with pytest.raises(NotFoundError, match="was changed"):
        catalog.find("digits", "1.0.0")
    assert digest in caplog.text


def test_the_last_reading_stays_in_force(services: Services, tmp_path: Path) -> None:
    catalog = Catalog(services.engine)
    digest = make_and_publish(services, tmp_path)
    with pytest.raises(NotFoundError):
        catalog.find("digits", "1.0.0")
    catalog.refresh()
    set_lifecycle(services, digest, "production")
    with pytest.raises(NotFoundError, match="no default version"):
        catalog.find("digits")
    catalog.refresh()
    assert catalog.find("digits").digest == digest == catalog.find("digits", "1.0.0").digest
    assert [served.version for served in catalog.versions()["digits"]] == ["1.0.0"]
