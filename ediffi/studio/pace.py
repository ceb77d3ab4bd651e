"""The pace of a model: how long a step of each stage takes, learned from the runs so far."""

from collections.abc import Mapping

from ediffi.studio.run import Step

KEEP = 0.7
"""How much of what was known stays when a new time is seen."""


class StepTimes:
    """Seconds a step takes for one picture, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def saw(self, before: Step, after: Step, seconds: float) -> None:
        """Learn from two steps of one stage, `seconds` apart."""
        steps = (after.step - before.step) * len(after.images)
        if before.stage == after.stage and steps > 0:
            known = self.seconds.get(after.stage, seconds / steps)
            self.seconds[after.stage] = KEEP * known + (1 - KEEP) * seconds / steps

    def left(self, steps: Mapping[str, int], images: int) -> float | None:
        """Seconds that so many steps of each stage will take; None if the time of one is not known yet."""
        if any(count and name not in self.seconds for name, count in steps.items()):
            return None
        return images * sum(count * self.seconds[name] for name, count in steps.items() if count)
