"""What a run comes to, in one line; and of a failure, all that is needed to have it again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faults.rounds import Outcome


@dataclass(slots=True)
class Report:
    """The sum of all rounds."""

    seed: int
    server: str
    left_out: Mapping[str, str]
    patience: float
    outcomes: list[Outcome] = field(default_factory=list)

    def late(self) -> list[Outcome]:
        """Give the rounds after which projections took longer than they may."""
        return [
            outcome for outcome in self.outcomes if outcome.stall_seconds > outcome.plan.bound_seconds * self.patience
        ]

    def failures(self) -> list[Outcome]:
        """Give the rounds after which something was not as it has to be."""
        late = self.late()
        return [outcome for outcome in self.outcomes if outcome.problems or outcome in late]

    def line(self) -> str:
        """Sum it up."""
        verdicts = [outcome.verdict for outcome in self.outcomes if outcome.verdict is not None]
        last = verdicts[-1] if verdicts else None
        counts = Counter(kind.name for outcome in self.outcomes for kind, _, _ in outcome.plan.faults)
        alone = self._stalls_alone()
        faults = ", ".join(
            f"{name} {count}" + (f" (≤ {alone[name]:.1f} s)" if name in alone else "")
            for name, count in sorted(counts.items())
        )
        parts = [
            f"seed {self.seed} on PostgreSQL {self.server}: {counts.total()} faults in {len(self.outcomes)} rounds",
            "nothing was compared"
            if last is None
            else f"{last.events} events, {last.lost} lost, {last.repeated} repeated",
            self._longest(),
            f"{len(self.late())} late",
            faults,
        ]
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{name} ({why})" for name, why in self.left_out.items()))
        return "; ".join(parts)

    def _stalls_alone(self) -> dict[str, float]:
        """Give the longest stall after each kind that was done by itself."""
        stalls: dict[str, float] = {}
        for outcome in self.outcomes:
            if len(outcome.plan.faults) == 1:
                name = outcome.plan.faults[0][0].name
                stalls[name] = max(stalls.get(name, 0.0), outcome.stall_seconds)
        return stalls

    def _longest(self) -> str:
        if not self.outcomes:
            return "no round"
        longest = max(self.outcomes, key=lambda outcome: outcome.stall_seconds)
        return (
            f"longest stall {longest.stall_seconds:.1f} s of {longest.plan.bound_seconds:g} s "
            f"({longest.plan}, round {longest.plan.number})"
        )


def tell_failure(outcome: Outcome, patience: float, again: str, story: Sequence[str]) -> str:
    """Tell what is wrong after a round, what was done in it, and how to have it again."""
    problems = list(outcome.problems)
    if outcome.stall_seconds > outcome.plan.bound_seconds * patience:
        problems.append(
            f"projections were up to date after {outcome.stall_seconds:.1f} s; "
            f"{outcome.plan.bound_seconds * patience:g} s are allowed after {outcome.plan}"
        )
    lines = [f"FAILED: round {outcome.plan.number} ({outcome.plan})", *(f"  {problem}" for problem in problems)]
    lines += ["the story:", *(f"  {line}" for line in story), f"again: {again}"]
    return "\n".join(lines)
