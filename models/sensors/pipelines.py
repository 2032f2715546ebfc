"""The sensors models: scikit-learn pipelines that take rows as the sensor sends them, with nulls (NaN)."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.ensemble import GradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler


def network(*, hidden: Sequence[int], epochs: int, seed: int) -> Pipeline:
    """The device's model: a small network, which int8 kernels run well. Nulls become the mean of their
    column, and all columns get the same scale."""
    return Pipeline(
        [("fill", SimpleImputer()), ("scale", StandardScaler()), ("classify", _network(hidden, epochs, seed))]
    )


def committee(*, members: int, hidden: Sequence[int], epochs: int, rounds: int) -> Pipeline:
    """The cloud's model: the mean of several larger networks and of boosted trees. The trees see the columns
    unscaled: scaled in float32, as an engine does, a value can come to lie beyond its threshold."""
    trees = GradientBoostingClassifier(
        n_estimators=rounds, max_depth=3, learning_rate=0.2, subsample=0.7, random_state=0
    )
    networks = [
        (
            f"network-{seed}",
            Pipeline([("scale", StandardScaler()), ("classify", _network(hidden, epochs, seed))]),
        )
        for seed in range(members)
    ]
    # flatten_transform is for what nobody asks here, and skl2onnx wants it off.
    vote = VotingClassifier([*networks, ("trees", trees)], voting="soft", flatten_transform=False)
    return Pipeline([("fill", SimpleImputer()), ("classify", vote)])


def _network(hidden: Sequence[int], epochs: int, seed: int) -> MLPClassifier:
    return MLPClassifier(
        hidden_layer_sizes=tuple(hidden),
        alpha=1e-3,
        learning_rate_init=5e-3,
        batch_size=64,
        max_iter=epochs,
        # Never stops early: the number of steps is the recipe's.
        n_iter_no_change=epochs,
        random_state=seed,
    )
