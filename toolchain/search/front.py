"""The Pareto front of quality, size and latency, when latency is known to a few percent only. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Two latencies that differ by less are equal: medians of one variant, measured twice on a machine with
# other things to do, differ by about that much.
LATENCY_NOISE = 0.05


@dataclass(frozen=True)
class Point:
    """What one variant costs and gives. More `quality` is better; of the others less is."""

    id: str
    quality: float
    size_bytes: int
    latency_ms: float


def no_worse(one: Point, other: Point) -> bool:
    """Whether `one` is as good as `other` in all three, latency within `LATENCY_NOISE`."""
    return (
        one.quality >= other.quality
        and one.size_bytes <= other.size_bytes
        and one.latency_ms <= other.latency_ms * (1 + LATENCY_NOISE)
    )


def pareto(points: Iterable[Point]) -> tuple[list[Point], dict[str, list[Point]]]:
    """The front, and for each point that is not on it those on it that are no worse.

    No point of the front is no worse than another point of it, and for each other point there is one on the
    front that is: with exact latencies this is the set of points that no other dominates, of equal ones the
    first by id. (Within the noise being no worse is not transitive, so what is compared with counts: points
    are compared with those on the front only.) The order in which points are given makes no difference.
    """
    front: list[Point] = []
    beaten: dict[str, list[Point]] = {}
    # In this order a point can only be beaten by one before it: of those as good and as small, the fastest
    # comes first.
    for point in sorted(points, key=lambda p: (-p.quality, p.size_bytes, p.latency_ms, p.id)):
        better = [kept for kept in front if no_worse(kept, point)]
        if better:
            beaten[point.id] = better
        else:
            front.append(point)
    return front, beaten


def by_preference(points: Iterable[Point]) -> list[Point]:
    """The points from the one that devices should take first: the fastest; of those that are as fast the
    smallest, then the best."""
    left = list(points)
    ordered: list[Point] = []
    while left:
        fastest = min(point.latency_ms for point in left)
        as_fast = [point for point in left if point.latency_ms <= fastest * (1 + LATENCY_NOISE)]
        ordered.append(min(as_fast, key=lambda p: (p.size_bytes, -p.quality, p.id)))
        left.remove(ordered[-1])
    return ordered


def first_picks(points: Iterable[Point]) -> list[Point]:
    """The points from the one to keep if there is room for one only: the one that devices should take first,
    the smallest, the best, then the others as devices prefer them."""
    preferred = by_preference(points)
    if not preferred:
        return []
    smallest = min(preferred, key=lambda p: p.size_bytes)
    best = max(preferred, key=lambda p: p.quality)
    return list(dict.fromkeys([preferred[0], smallest, best, *preferred]))
