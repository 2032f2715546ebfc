"""The rollout loop: a turn for every rollout that is under way, each in a transaction of its own."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from cloud_hub.control import rollouts
from cloud_hub.store.database import reading, writing
from edgeops.errors import EdgeopsError
from edgeops.signing.keys import PrivateKey

logger = logging.getLogger(__name__)


def tick(engine: Engine, signer: PrivateKey, now_ms: int) -> list[str]:
    """Gives every rollout under way its turn; returns the ids of those that moved to another phase.

    A rollout whose turn fails stays as it was and is tried again at the next tick; the others go on.
    """
    with reading(engine) as connection:
        ids = rollouts.active_ids(connection)
    moved = []
    for rollout_id in ids:
        try:
            with writing(engine) as connection:
                before = rollouts.load(connection, rollout_id).rollout.state.phase
                state = rollouts.turn(connection, signer, rollout_id, now_ms).rollout.state
        except EdgeopsError as error:
            logger.error("The rollout %s could not take its turn: %s", rollout_id, error)
            continue
        if state.phase != before:
            logger.info("Rollout %s: %s -> %s. %s", rollout_id, before, state.phase, state.reason)
            moved.append(rollout_id)
    return moved
