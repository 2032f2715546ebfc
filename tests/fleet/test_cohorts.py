"""Cohorts and canaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ConflictError, NotFoundError
from edgeops.messages import BundleRef
from fleet.cohorts import Member, Selector, canary_count, choose_canaries, select
from fleet.plan import make_plan
from fleet.rollout_types import Spec

FLEET = tuple(
    Member(f"d{number}", site, online, {"site": site, "line": str(number % 2)})
    for number, (site, online) in enumerate(
        [("north", True), ("north", True), ("north", False), ("south", True), ("south", True), ("east", True)]
    )
)

members = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from("abc"), st.booleans()),
    min_size=1,
    max_size=30,
    unique_by=lambda item: item[0],
).map(lambda items: tuple(Member(f"d{number}", site, online) for number, site, online in items))


def bundle(version: str, name: str = "digits") -> BundleRef:
    return BundleRef(name=name, version=version, digest=version.replace(".", "") * 8)


def test_labels_must_all_fit_and_names_add_to_them() -> None:
    selector = Selector(labels={"site": "north", "line": "0"}, devices=("d5",))
    assert [member.name for member in select(selector, FLEET)] == ["d0", "d2", "d5"]


def test_names_alone_select_these_and_nothing_selects_all() -> None:
    assert [member.name for member in select(Selector(devices=("d3",)), FLEET)] == ["d3"]
    assert len(select(Selector(), FLEET)) == len(FLEET)


@pytest.mark.parametrize("selector", [Selector(labels={"site": "west"}), Selector(devices=("d0", "d9"))])
def test_an_empty_cohort_and_an_unknown_device_are_refused(selector: Selector) -> None:
    with pytest.raises(NotFoundError):
        select(selector, FLEET)


@given(members, st.text(max_size=8), st.data())
def test_the_choice_of_canaries_is_fixed_by_rollout_and_devices(
    fleet: tuple[Member, ...], rollout: str, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(fleet)))
    chosen = choose_canaries(rollout, fleet, count)
    assert len(set(chosen)) == count
    assert choose_canaries(rollout, data.draw(st.permutations(fleet)), count) == chosen


@given(members, st.data())
def test_offline_devices_are_canaries_only_when_no_other_is_left(
    fleet: tuple[Member, ...], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(fleet)))
    chosen = set(choose_canaries("r", fleet, count))
    offline = [member for member in fleet if not member.online]
    online = len(fleet) - len(offline)
    assert sum(member.name in chosen for member in offline) == max(0, count - online)


def test_sites_take_turns() -> None:
    sites = {member.name: member.site for member in FLEET}
    for rollout in ("a", "b", "c", "d"):
        assert {sites[name] for name in choose_canaries(rollout, FLEET, 3)} == {"north", "south", "east"}


def test_rollouts_do_not_always_burden_the_same_device() -> None:
    firsts = {choose_canaries(f"r-{number}", FLEET, 1)[0] for number in range(40)}
    assert firsts == {"d0", "d1", "d3", "d4", "d5"}


def test_a_canary_needs_someone_to_be_compared_with() -> None:
    assert canary_count(6, None, 0.1) == 1
    assert canary_count(100, None, 0.1) == 10
    for size, count in ((1, None), (3, 3)):
        with pytest.raises(ConflictError):
            canary_count(size, count, 0.1)


def test_the_plan_leaves_out_who_has_it_and_remembers_what_each_ran() -> None:
    old, new = bundle("1.0.0"), bundle("1.1.0")
    desired = {"d0": new, "d1": old, "d2": old, "d3": None, "d4": old, "d5": old}
    plan = make_plan("r", Spec(candidate=new, canary_count=2), FLEET, desired)
    assert [each.name for each in plan.devices] == ["d1", "d2", "d3", "d4", "d5"]
    assert {each.name: each.previous for each in plan.devices}["d3"] is None
    assert plan.baseline == old
    assert "d3" not in plan.canaries
    assert len(plan.canaries) == 2


@pytest.mark.parametrize(
    "desired",
    [
        pytest.param({}, id="nothing runs yet"),
        pytest.param({"d0": bundle("1.0.0"), "d1": bundle("0.9.0")}, id="several baselines"),
        pytest.param({f"d{n}": bundle("1.0.0", "sensors") for n in range(6)}, id="another model"),
        pytest.param({f"d{n}": bundle("1.1.0") for n in range(6)}, id="all have it"),
    ],
)
def test_a_canary_without_one_baseline_is_refused(desired: dict[str, BundleRef | None]) -> None:
    with pytest.raises(ConflictError):
        make_plan("r", Spec(candidate=bundle("1.1.0"), canary_count=1), FLEET, desired)
