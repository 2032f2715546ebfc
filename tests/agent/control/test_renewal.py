"""Renewal goes on trying, whatever is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from device_agent.uplink.renewal import keep_renewed
from edgeops_testkit.enrolled import Desk
from edgeops_testkit.waiting import wait_until_async


async def _meets_a_damaged_certificate(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    identity = desk.enroll()
    path = identity.certificate_path
    content = path.read_bytes()
    path.write_bytes(b"garbage")
    task = asyncio.create_task(
        keep_renewed(identity, identity.enrolment.hub_url, timeout_s=5, retry_min_s=0.01, retry_max_s=0.01)
    )
    try:
        await wait_until_async(lambda: str(path) in caplog.text, 10, "the file is named")
        path.write_bytes(content)
        assert not task.done()
    finally:
        task.cancel()


@pytest.mark.slow
def test_a_damaged_certificate_does_not_end_the_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk.make(tmp_path)
    try:
        asyncio.run(_meets_a_damaged_certificate(desk, caplog))
    finally:
        desk.hub.close()
    assert "cannot be renewed" in caplog.text
