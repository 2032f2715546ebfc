"""Renewing the client certificate before it ends: from two thirds of its life on, until it works."""

from __future__ import annotations

import asyncio
import logging
import random

import msgspec

from device_agent.uplink import hub_api
from device_agent.uplink.identity import Identity
from edgeops import clock
from edgeops.errors import EdgeopsError, TransportError

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 3600.0


class _RenewAnswer(msgspec.Struct, frozen=True):
    certificate_pem: str


def renew(identity: Identity, hub_url: str, timeout_s: float) -> None:
    """Asks the hub for a new certificate for the same key and swaps it in, in one step. Raises what
    `hub_api.call` raises, and `ConfigError` when the answer is no certificate for this device."""
    answer = hub_api.call_json(
        hub_url,
        "/device/v1/renew",
        context=identity.tls_context(),
        timeout_s=timeout_s,
        body={"csr_pem": identity.certificate_request().decode()},
    )
    try:
        pem = msgspec.convert(answer, _RenewAnswer).certificate_pem
    except msgspec.ValidationError as error:
        raise TransportError(f"The hub's answer to a renewal is unfit ({error}).", subject=hub_url) from error
    identity.replace_certificate(pem.encode())


async def keep_renewed(
    identity: Identity, hub_url: str, *, timeout_s: float, retry_min_s: float, retry_max_s: float
) -> None:
    """Renews whenever it is due, until cancelled. The link and the downloads read the certificate anew for
    each connection, so nothing is cut."""
    failures = 0
    while True:
        try:
            wait_s = (identity.renewal_due_ms() - clock.now_ms()) / 1000
            if wait_s > 0:
                # In steps: the wall clock of a device may jump.
                await asyncio.sleep(min(wait_s, _LOOK_AGAIN_S))
                continue
            await asyncio.to_thread(renew, identity, hub_url, timeout_s)
        except EdgeopsError as error:
            failures += 1
            _log.warning("The certificate cannot be renewed: %s", error)
            delay = min(retry_max_s, retry_min_s * 2 ** min(failures, 30))
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
        else:
            failures = 0
            _log.info("The certificate was renewed.")
            # With a clock that is far ahead a new certificate is due at once: the hub must not be flooded.
            await asyncio.sleep(retry_max_s)
