"""Which features drifted, at which sites: distances, judged together, as scores and as alert measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet.alerts import DRIFT, Measurement, Reading
from fleet.drift import Distance
from fleet.significance import discovery_level, is_judgeable, p_value, threshold

# An open alert begins to resolve when both p-values are above this: plainly back to usual, not just below
# the alarm.
CLEAR_LEVEL = 0.05
# Or when both distances are well below their thresholds, however significant.
CLEAR_SHARE = 0.8


@dataclass(frozen=True)
class Place:
    """What is judged: one feature of one bundle at one site."""

    model: str
    digest: str
    site: str
    feature: str

    @property
    def alert_key(self) -> str:
        """The key of this place's drift alert."""
        return f"{DRIFT.name}/{self.model}/{self.digest[:12]}/{self.site}/{self.feature}"


@dataclass(frozen=True)
class DriftScore:
    """The verdict on one place. `drifted`: KS or PSI reached its threshold, which stands for the level that
    holds the false discovery rate over its family, or for the least distance that matters."""

    place: Place
    distance: Distance
    ks_p: float
    psi_p: float
    ks_threshold: float
    psi_threshold: float
    drifted: bool


@dataclass(frozen=True)
class Least:
    """The smallest distances that matter in practice. With enough values any difference is significant, so
    a threshold never lies below these."""

    ks: float
    psi: float


def judge_drift(
    distances: Sequence[tuple[Place, Distance]], rate: float, least: Least
) -> tuple[DriftScore, ...]:
    """Scores of all places with enough values (`significance.is_judgeable`).

    The features of one bundle at one site are a family: among the alarms of a look the expected share of
    false ones is at most `rate` over all families together. They share it out evenly, so that a site whose
    features all drift does not make the others' thresholds laxer.
    """
    families: dict[tuple[str, str], list[tuple[Place, Distance]]] = {}
    for place, distance in distances:
        if is_judgeable(distance):
            families.setdefault((place.digest, place.site), []).append((place, distance))
    scores = [score for family in families.values() for score in _judge(family, rate / len(families), least)]
    return tuple(scores)


def _judge(family: Sequence[tuple[Place, Distance]], rate: float, least: Least) -> Iterator[DriftScore]:
    p_values = [(p_value("ks", distance), p_value("psi", distance)) for _, distance in family]
    level = discovery_level([p for pair in p_values for p in pair], rate)
    for (place, distance), (ks_p, psi_p) in zip(family, p_values, strict=True):
        ks_threshold = max(least.ks, threshold("ks", distance, level))
        psi_threshold = max(least.psi, threshold("psi", distance, level))
        yield DriftScore(
            place=place,
            distance=distance,
            ks_p=ks_p,
            psi_p=psi_p,
            ks_threshold=ks_threshold,
            psi_threshold=psi_threshold,
            drifted=distance.ks >= ks_threshold or distance.psi >= psi_threshold,
        )


def drift_measurement(score: DriftScore, model_label: str) -> Measurement:
    """The score as a measurement of its alert. `model_label` is name and version, for people."""
    place, distance = score.place, score.distance
    reading: Reading = "between"
    if score.drifted:
        reading = "true"
    elif min(score.ks_p, score.psi_p) > CLEAR_LEVEL or (
        distance.ks < CLEAR_SHARE * score.ks_threshold and distance.psi < CLEAR_SHARE * score.psi_threshold
    ):
        reading = "clear"
    # The distance that is the further on the way to its threshold is the one that counts.
    by_ks = distance.ks * score.psi_threshold >= distance.psi * score.ks_threshold
    return Measurement(
        rule=DRIFT,
        key=place.alert_key,
        reading=reading,
        message=(
            f"The input of {model_label} at {place.site} has drifted: {place.feature} over "
            f"{distance.count} requests has KS {distance.ks:.3f} (threshold {score.ks_threshold:.3f}) and "
            f"PSI {distance.psi:.3f} (threshold {score.psi_threshold:.3f}) against the training data."
        ),
        model=place.model,
        digest=place.digest,
        site=place.site,
        feature=place.feature,
        value=distance.ks if by_ks else distance.psi,
        threshold=score.ks_threshold if by_ks else score.psi_threshold,
    )


def gone_measurement(place: Place) -> Measurement:
    """That nothing is left to measure: no device of the site runs the bundle any more."""
    return Measurement(
        rule=DRIFT,
        key=place.alert_key,
        reading="gone",
        message=f"No device at {place.site} runs this bundle of {place.model} any more.",
        model=place.model,
        digest=place.digest,
        site=place.site,
        feature=place.feature,
    )
