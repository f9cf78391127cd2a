"""Seeds until every rival is decided against the reference: verdicts that stay valid at every look.

Intervals for one look, which the other tables have, give 27 % false verdicts of 5 % if somebody adds seeds until one of
them excludes 0. Here evidence is an e-value (`segjax.statistics.sequential`), shared between the rivals.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.lab.arms import COLUMNS, Arm
from experiments.lab.report import Drawing, Table
from experiments.lab.tables import estimate_text
from segjax import plotting, statistics
from segjax.statistics import Estimate, Verdict

# The measure that decides. A second one would need a share of the level.
COLUMN = COLUMNS["iou"]
# An e-value of 20 is a verdict at the 5 % level.
ENOUGH = 20.0
# Beyond as many seeds, the number that a difference would need is not worth a digit.
_MANY_SEEDS = 1000


class Decision(NamedTuple):
    """A rival's comparison with the reference after the last seed.

    Attributes:
        difference: mean difference of the held-out IoU, with the interval that is valid at every number of seeds.
        evidence: (seeds,) e-value after each seed, shared between the rivals: of the mean, or of the signs from the
            first failed run on.
        probability: share of the seeds on which the rival is better, with its interval.
        sign_evidence: the shared e-value of the signs after the last seed.
        decided_after: number of seeds at which the evidence first was enough; None if it never was.
        verdict: "not told apart" if it is not decided.
        seeds_needed: number of seeds that would decide the observed mean difference at the observed spread, beside the
            present evidence of the other rivals; infinite without any difference, NaN if a run failed.
    """

    difference: Estimate
    evidence: np.ndarray
    probability: Estimate
    sign_evidence: float
    decided_after: int | None
    verdict: Verdict
    seeds_needed: float


def decisions(rivals: Mapping[str, Arm], reference: Arm) -> dict[str, Decision]:
    """label -> decision of each rival; a run that diverged loses against one that did not."""
    if not rivals:
        return {}
    worst = -np.inf if COLUMN.higher_is_better else np.inf
    scores = [np.where(arm.diverged, worst, arm.values(COLUMN.name)) for arm in (reference, *rivals.values())]
    with np.errstate(invalid="ignore"):
        # NaN where both runs diverged.
        differences = np.stack(scores[1:], axis=-1) - scores[0][:, np.newaxis]
    result = statistics.sequential(differences)
    failed = np.logical_or.accumulate(~np.isfinite(differences), axis=0)
    # With several rivals, one of their e-values is large by chance more often.
    evidence = np.where(failed, result.sign_evidence, result.evidence)
    shared = np.stack([statistics.shared_evidence(row) for row in evidence])
    sign_evidence = statistics.shared_evidence(result.sign_evidence[-1])
    difference, probability = (
        [Estimate(*ends) for ends in np.transpose([part[-1] for part in estimate])]
        for estimate in (result.difference, result.probability)
    )
    return {
        label: _decision(
            difference[i],
            shared[:, i],
            probability[i],
            float(sign_evidence[i]),
            differences[:, i],
            _enough_alone(np.delete(evidence[-1], i)),
        )
        for i, label in enumerate(rivals)
    }


def _enough_alone(others: np.ndarray) -> float:
    """The e-value that a rival needs for enough shared evidence, beside the e-values of the others."""
    lowest = np.concatenate([[0.0], np.cumsum(np.sort(others))])
    return float(np.max(ENOUGH * np.arange(1, len(lowest) + 1) - lowest))


def _decision(
    difference: Estimate,
    evidence: np.ndarray,
    probability: Estimate,
    sign_evidence: float,
    differences: np.ndarray,
    enough_alone: float,
) -> Decision:
    enough = np.flatnonzero(evidence >= ENOUGH)
    after = int(enough[0]) + 1 if enough.size else None
    verdict: Verdict = "not told apart"
    if after is not None:
        # The direction of the evidence at the look that decided.
        so_far = differences[:after]
        direction = np.mean(so_far) if np.isfinite(so_far).all() else np.nansum(np.sign(so_far))
        verdict = "better" if (direction > 0) == COLUMN.higher_is_better else "worse"
    needed = np.nan
    if len(differences) > 1 and np.isfinite(differences).all() and np.ptp(differences):
        needed = statistics.seeds_to_decide(float(np.mean(differences) / np.std(differences, ddof=1)), enough_alone)
    return Decision(difference, evidence, probability, sign_evidence, after, verdict, needed)


def finding(label: str, reference: str, decision: Decision) -> str:
    """A sentence: the verdict and the number of seeds that it took, or what it would take."""
    seeds, difference = len(decision.evidence), estimate_text(decision.difference, f"+{COLUMN.form}")
    if np.isnan(decision.difference.value):
        better = f"{label} is better with probability {estimate_text(decision.probability, '.2f')}"
        difference = f"runs diverged, and {'no pair differs' if np.isnan(decision.probability.value) else better}"
    if decision.decided_after is not None:
        return (
            f"{label} is {decision.verdict} than {reference} in {COLUMN.title}: {difference}, decided after "
            f"{decision.decided_after} seeds."
        )
    start = f"{label} and {reference} are not decided in {COLUMN.title} after {seeds} seeds: {difference}"
    if np.isnan(decision.seeds_needed):
        return f"{start}."
    needed = f"about {decision.seeds_needed:.0f}" if decision.seeds_needed <= _MANY_SEEDS else f"over {_MANY_SEEDS}"
    value = f"{abs(decision.difference.value):{COLUMN.form}}"
    return f"{start}; at this spread a difference of {value} would need {needed} seeds."


def table(decisions: Mapping[str, Decision], reference: str) -> Table:
    """One row per rival: its difference and its evidence by both tests."""
    rows = [
        [
            label,
            f"{decision.decided_after} seeds" if decision.decided_after else "-",
            estimate_text(decision.difference, f"+{COLUMN.form}"),
            f"{decision.evidence[-1]:.3g}",
            estimate_text(decision.probability, ".2f"),
            f"{decision.sign_evidence:.3g}",
        ]
        for label, decision in decisions.items()
    ]
    note = (
        "Valid at every number of seeds at once; the intervals of tables below are for one look. Evidence: e-values, "
        f"shared between the rivals; {ENOUGH:g} decides at 5 %. That of the difference assumes normal differences, "
        "that of the signs nothing; the signs decide where a run diverged. Each interval is 95 % by itself."
    )
    headings = (
        "",
        "decided after",
        f"IoU minus {reference}'s",
        "evidence",
        "probability of being better",
        "of the signs",
    )
    return Table("Verdicts at any number of seeds", headings, rows, note)


def drawing(decisions: Mapping[str, Decision], reference: str, order: Sequence[str]) -> Drawing:
    """The evidence of each rival after each seed; `order` has all names of the report, see `plotting`."""
    curves = {label: decision.evidence[np.newaxis] for label, decision in decisions.items()}
    lines = {f"{ENOUGH:g}: decided": ENOUGH}
    ylabel = f"evidence against equal {COLUMN.heading}"
    panel = plotting.Panel(ylabel, curves, log=True, xlabel="seeds", horizontal_lines=lines, order=order)
    return Drawing("Evidence, seed by seed", plotting.training_curves([panel], f"Each rival against {reference}"))


def all_decided(decisions: Iterable[Decision]) -> bool:
    """Whether every rival is decided."""
    return all(decision.decided_after is not None for decision in decisions)
