"""Which features drifted, at which sites: distances, judged together, as scores and as alert measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.alerts import DRIFT, Measurement, Reading
from fleet.drift import Distance
from fleet.significance import discovery_level, is_judgeable, p_value, threshold

# An open alert begins to resolve when both p-values are above this: plainly back to usual, not just below
# the alarm.
CLEAR_LEVEL = 0.05


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
    holds the false discovery rate over all places judged with it."""

    place: Place
    distance: Distance
    ks_p: float
    psi_p: float
    ks_threshold: float
    psi_threshold: float
    drifted: bool


def judge_drift(distances: Sequence[tuple[Place, Distance]], rate: float) -> tuple[DriftScore, ...]:
    """Scores of all places with enough values (`significance.is_judgeable`), judged as one family.

    `rate` is the expected share of false alarms among all alarms of one look.
    """
    judged = [(place, distance) for place, distance in distances if is_judgeable(distance)]
    if not judged:
        return ()
    p_values = [(p_value("ks", distance), p_value("psi", distance)) for _, distance in judged]
    level = discovery_level([p for pair in p_values for p in pair], rate)
    return tuple(
        DriftScore(
            place=place,
            distance=distance,
            ks_p=ks_p,
            psi_p=psi_p,
            ks_threshold=threshold("ks", distance, level),
            psi_threshold=threshold("psi", distance, level),
            drifted=min(ks_p, psi_p) <= level,
        )
        for (place, distance), (ks_p, psi_p) in zip(judged, p_values, strict=True)
    )


def drift_measurement(score: DriftScore, model_label: str) -> Measurement:
    """The score as a measurement of its alert. `model_label` is name and version, for people."""
    place, distance = score.place, score.distance
    reading: Reading = "between"
    if score.drifted:
        reading = "true"
    elif min(score.ks_p, score.psi_p) > CLEAR_LEVEL:
        reading = "clear"
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
        value=distance.ks,
        threshold=score.ks_threshold,
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
