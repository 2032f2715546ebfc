"""Which steps of a plan may run now. Pure: it starts nothing, it is told what started and how it ended.

- A step is ready when the outputs that it reads are there, and no step before it in the plan has failed. So
  the first error in the plan's order is found whatever runs beside what.
- The threads of the steps that run are no more than `jobs`, but for one step alone that wants more.
- An exclusive step runs alone. Others go first where both could: so the machine is emptied for it rarely.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.plan import Step


class Schedule:
    """The state of a plan's steps, which stand in an order in which each comes after its inputs."""

    def __init__(self, steps: Sequence[Step], jobs: int) -> None:
        self._order = {step.name: index for index, step in enumerate(steps)}
        self._waiting = {step.name: step for step in steps}
        self._running: dict[str, Step] = {}
        self._done: set[str] = set()
        self._errors: dict[str, Exception] = {}
        self._jobs = jobs

    @property
    def running(self) -> int:
        """How many steps run."""
        return len(self._running)

    @property
    def error(self) -> Exception | None:
        """The error of the first step, in the plan's order, that failed."""
        failed = min(self._errors, key=self._order.__getitem__, default=None)
        return None if failed is None else self._errors[failed]

    def ready(self) -> list[Step]:
        """The steps that could run if there is room, in the order in which they should be asked for it:
        exclusive ones last, else as in the plan."""
        end = min((self._order[name] for name in self._errors), default=len(self._order))
        ready = [
            step
            for name, step in self._waiting.items()
            if self._order[name] < end and self._done.issuperset(step.inputs.values())
        ]
        return sorted(ready, key=lambda step: step.exclusive)

    def has_room(self, step: Step) -> bool:
        """Whether a step can run beside those that do."""
        if not self._running:
            return True
        if step.exclusive or any(other.exclusive for other in self._running.values()):
            return False
        return sum(map(self.threads, self._running.values())) + self.threads(step) <= self._jobs

    def has_spare_thread(self) -> bool:
        """Whether fewer threads compute than may, and nothing that measures time runs."""
        running = self._running.values()
        return not any(step.exclusive for step in running) and sum(map(self.threads, running)) < self._jobs

    def will_measure(self) -> bool:
        """Whether a step that measures time runs or is yet to run."""
        return any(step.exclusive for step in (*self._waiting.values(), *self._running.values()))

    def after(self, step: Step) -> list[Step]:
        """The steps that wait for this one, in the plan's order."""
        return [other for other in self._waiting.values() if step.name in other.inputs.values()]

    def threads(self, step: Step) -> int:
        """How many threads a step gets."""
        return min(step.threads, self._jobs)

    def processors(self, step: Step) -> int:
        """How many processors it may keep busy: all if nothing runs beside it."""
        return self._jobs if step.exclusive else self.threads(step)

    def start(self, step: Step) -> None:
        """The step runs."""
        self._running[step.name] = self._waiting.pop(step.name)

    def finish(self, step: Step) -> None:
        """The step's output is there, whether it ran or not."""
        self._end(step)
        self._done.add(step.name)

    def fail(self, step: Step, error: Exception) -> None:
        """The step ended, or could not begin, with an error."""
        self._end(step)
        self._errors[step.name] = error

    def in_order(self, names: set[str]) -> tuple[str, ...]:
        """Names of steps in the plan's order."""
        return tuple(sorted(names, key=self._order.__getitem__))

    def _end(self, step: Step) -> None:
        self._waiting.pop(step.name, None)
        self._running.pop(step.name, None)
