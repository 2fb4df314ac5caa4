"""The primary differences by the success rate of the base model on a prompt, and one figure for all plans.

    python -m benchmarks.frontier.regimes

writes docs/evidence/regimes.png from the counts of the comparisons with ordinary RL.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.frontier.counts import BASE, Store
from benchmarks.frontier.plan import Plan, load
from benchmarks.frontier.tables import tested_counts, title, values
from benchmarks.markdown import interval, markdown
from learner import paired_difference_of_runs
from learner.metrics import Difference

EDGES = (0.0, 0.1, 0.3, 1.0)  # upper ends of the classes of prompts by the base model's success rate
EVIDENCE = Path("docs/evidence")
PAGES = {  # of the comparisons with ordinary RL
    "countdown-small": "frontier",
    "countdown-hard": "frontier-hard",
    "countdown-larger": "frontier-larger",
    "countdown-long": "frontier-long",
    "gsm8k-small": "gsm8k-small",
}


class Regime(NamedTuple):
    """The difference of a pair on the test prompts of one class of the base model's success rate, for each k."""

    name: str
    prompts: int
    pair: str
    by_k: dict[int, Difference]


def regimes(store: Store, plan: Plan, tested: Sequence[str]) -> list[Regime]:
    """The primary pairs of contenders, by the base model's success rate on the prompt and by k."""
    base = tested_counts(store, plan, BASE, min(plan.ks))[0]
    class_P = np.searchsorted(EDGES, base.right_P / base.samples)
    names = ["0", *(f"above {low:g}, at most {high:g}" for low, high in zip(EDGES[:-1], EDGES[1:], strict=True))]
    found = []
    pairs = dict.fromkeys((c.contender, c.against) for c in plan.primary if {c.contender, c.against} <= {*tested})
    for contender, against in pairs:
        for i, name in enumerate(names):
            (of_class,) = np.nonzero(class_P == i)
            if len(of_class) < 2:
                continue
            by_k = {}
            for k in plan.ks:
                before, after = (values(store, plan, one, k)[:, of_class] for one in (against, contender))
                by_k[k] = paired_difference_of_runs(before, after)
            found.append(Regime(name, len(of_class), f"{title(plan, contender)} minus {title(plan, against)}", by_k))
    return found


def regimes_table(store: Store, plan: Plan, found: Sequence[Regime]) -> str:
    """The table of what :func:`regimes` found."""
    rows = [["base success rate", "prompts", "difference", *(f"pass@{k}" for k in plan.ks)]]
    for one in found:
        rows.append([one.name, str(one.prompts), one.pair, *(interval(one.by_k[k]) for k in plan.ks)])
    base = tested_counts(store, plan, BASE, min(plan.ks))[0]
    note = (
        f"Test prompts by the share of right ones among {base.samples} answers of the base model, at its best "
        f"temperature for pass@{min(plan.ks)}. These answers are used for nothing else in this table. Descriptive."
    )
    return f"{markdown(rows)}\n\n{note}"


def plot_regimes(path: Path, panels: Mapping[str, Sequence[Regime]]) -> None:
    """The differences by the base model's success rate, one panel for each title, one color for each k."""
    from matplotlib.figure import Figure

    ks = sorted({k for classes in panels.values() for one in classes for k in one.by_k})
    figure = Figure(figsize=(5.4 * len(panels), 4.2), layout="constrained")
    every_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    every_axes[0].set_ylabel("difference, 95 % interval")
    for axes, (panel, classes) in zip(every_axes, panels.items(), strict=True):
        own = [k for k in ks if k in classes[0].by_k]
        for i, k in enumerate(own):
            differences = [one.by_k[k] for one in classes]
            x = np.arange(len(classes)) + 0.15 * (i - (len(own) - 1) / 2)
            y = np.array([d.value for d in differences])
            ends = [y - [d.low for d in differences], [d.high for d in differences] - y]
            color = f"C{ks.index(k)}"
            axes.errorbar(x, y, ends, fmt="o", markersize=4, capsize=3, color=color, label=f"pass@{k}")
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(classes)), [f"{one.name}\n{one.prompts} prompts" for one in classes], fontsize=8)
        axes.set_xlabel("success rate of the base model")
        axes.set_title("\n".join(textwrap.fill(line, 50) for line in panel.split("\n")), fontsize=9)
        axes.legend()
    figure.savefig(path, dpi=110)


def by_pair(found: Sequence[Regime]) -> dict[str, list[Regime]]:
    """What :func:`regimes` found, as panels for :func:`plot_regimes`."""
    panels: dict[str, list[Regime]] = {}
    for one in found:
        panels.setdefault(one.pair, []).append(one)
    return panels


def main(output: Path = EVIDENCE / "regimes.png") -> None:
    panels = {}
    for name, folder in PAGES.items():
        plan = load(Path(f"benchmarks/frontier/{name}.yaml"))
        store = Store(EVIDENCE / folder / "counts.parquet", plan.digest)
        for pair, classes in by_pair(regimes(store, plan, list(plan.contenders))).items():
            panels[f"{plan.title}\n{pair}"] = classes
    plot_regimes(output, panels)
    print(f"wrote {output}: {len(panels)} panels")


if __name__ == "__main__":
    main()
