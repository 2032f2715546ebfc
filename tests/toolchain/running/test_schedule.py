"""The schedule's laws, over random plans, failures and orders in which steps end."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from toolchain.plan.step import Step
from toolchain.running.schedule import Schedule


@dataclass(frozen=True)
class Scene:
    steps: tuple[Step, ...]
    failing: frozenset[str]
    jobs: int


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    count = draw(st.integers(1, 9))
    steps = []
    for index in range(count):
        inputs = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        steps.append(
            Step(
                name=f"s{index}",
                module="",
                meaning="",
                config={},
                inputs={f"s{other}": f"s{other}" for other in inputs},
                exclusive=draw(st.booleans()),
                threads=draw(st.integers(1, 4)),
            )
        )
    failing = draw(st.sets(st.sampled_from([step.name for step in steps]), max_size=2))
    return Scene(tuple(steps), frozenset(failing), draw(st.integers(1, 4)))


def one_by_one(scene: Scene) -> tuple[str | None, set[str]]:
    """What a plan ends with step by step: the step that fails, and those that were done before."""
    done = set()
    for step in scene.steps:
        if step.name in scene.failing:
            return step.name, done
        done.add(step.name)
    return None, done


@given(scenes(), st.data())
def test_any_order_of_events_ends_as_one_by_one(scene: Scene, data: st.DataObject) -> None:
    schedule = Schedule(scene.steps, scene.jobs)
    running: list[Step] = []
    plain = step("plain")
    done: set[str] = set()
    while True:
        for found in schedule.ready():
            if schedule.has_room(found):
                assert set(found.inputs.values()) <= done
                schedule.start(found)
                running.append(found)
        if not running:
            break
        if any(found.exclusive for found in running):
            assert len(running) == 1
        assert len(running) == 1 or sum(map(schedule.threads, running)) <= scene.jobs
        # A thread is spare exactly when a step of one thread, that minds nobody, had room.
        assert schedule.has_spare_thread() == schedule.has_room(plain)
        for waiting in schedule.after(running[-1]):
            assert running[-1].name in waiting.inputs.values()
            assert waiting not in running
            assert waiting.name not in done
        ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
        if ended.name in scene.failing:
            schedule.fail(ended, RuntimeError(ended.name))
        else:
            schedule.finish(ended)
            done.add(ended.name)
    failed, before = one_by_one(scene)
    assert (None if schedule.error is None else str(schedule.error)) == failed
    assert before <= done


def step(name: str, *inputs: str, exclusive: bool = False, threads: int = 1) -> Step:
    return Step(
        name=name,
        module="",
        meaning="",
        config={},
        inputs={other: other for other in inputs},
        exclusive=exclusive,
        threads=threads,
    )


def test_exclusive_steps_are_asked_last_and_run_alone() -> None:
    timed, other = step("timed", exclusive=True), step("other")
    schedule = Schedule([timed, other], 4)
    assert [found.name for found in schedule.ready()] == ["other", "timed"]
    schedule.start(other)
    assert not schedule.has_room(timed)
    schedule.finish(other)
    schedule.start(timed)
    assert not schedule.has_room(step("third"))


def test_after_an_error_what_comes_later_is_not_started_and_what_comes_before_is() -> None:
    first, second, third = step("first"), step("second"), step("third")
    schedule = Schedule([first, second, third], 1)
    schedule.start(second)
    schedule.fail(second, ValueError("second"))
    assert [found.name for found in schedule.ready()] == ["first"]
    schedule.fail(first, ValueError("first"))
    assert str(schedule.error) == "first"


def test_a_step_that_wants_more_threads_than_there_are_gets_those_there_are() -> None:
    schedule = Schedule([step("wide", threads=8), step("narrow")], 2)
    wide, narrow = schedule.ready()
    assert schedule.threads(wide) == 2
    schedule.start(wide)
    assert not schedule.has_room(narrow)


def test_only_a_step_that_runs_alone_may_keep_all_processors_busy() -> None:
    timed, wide, plain = step("timed", exclusive=True), step("wide", threads=2), step("plain")
    schedule = Schedule([timed, wide, plain], 4)
    assert [schedule.processors(found) for found in (timed, wide, plain)] == [4, 2, 1]
    assert schedule.threads(timed) == 1


def test_something_will_be_measured_until_the_last_such_step_has_ended() -> None:
    timed, last = step("timed", exclusive=True), step("last", "timed")
    schedule = Schedule([timed, last], 2)
    assert schedule.will_measure()
    schedule.start(timed)
    assert schedule.will_measure()
    schedule.finish(timed)
    assert not schedule.will_measure()


def test_names_come_in_the_plans_order() -> None:
    schedule = Schedule([step("b"), step("a"), step("c")], 1)
    assert schedule.in_order({"a", "c", "b"}) == ("b", "a", "c")
