"""What `--dry-run` says about the nodes: placement, totals, and what more samples or samplers would change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cluster.launch.demand import Sizes, object_store_of, plan_run, shm_of
from cluster.launch.plan import PlacementError, Plan, describe, groups_of_nodes

if TYPE_CHECKING:
    from cluster.config import RunConfig

SizesOf = Callable[["RunConfig"], Sizes]


def placement_rows(config: RunConfig, sizes_of: SizesOf) -> Iterator[tuple[str, str]]:
    """Rows (figure, value); empty where no node types are given.

    Raises:
        PlacementError: the node types cannot hold the run.
    """
    if not config.cluster.node_types:
        return
    sizes = sizes_of(config)
    plan = plan_run(config, sizes)
    for index, (node, count) in enumerate(groups_of_nodes(plan)):
        content = describe(node.bundles)
        if node.head:
            content = "head (driver, replay queue)" + (f", {content}" if node.bundles else "")
        yield "placement" if not index else "", f"{count} x {node.type_name}: {content}"
    yield "nodes of the cluster", _counts(plan)
    yield "cluster, in all", _totals(plan)
    yield "  taken by actors", _taken(plan)
    yield "  each node's /dev/shm", _shared_memory(config, sizes)
    most = plan_run(config, sizes, most=True)
    if most.counts != plan.counts:
        yield "nodes with all elastic actors", _counts(most)
    yield from _changes(config, sizes_of, plan)


def _counts(plan: Plan) -> str:
    return ", ".join(f"{count} x {name}" for name, count in plan.counts.items())


def _totals(plan: Plan) -> str:
    text = f"{plan.gpus} GPUs, {plan.cpus} CPUs, {plan.memory_gib:,.6g} GiB of memory on {len(plan.nodes)} nodes"
    spot = [node for node in plan.nodes if node.type.spot]
    if not spot:
        return f"{text}; none of them spot"
    return f"{text}; of them spot: {len(spot)} nodes with {sum(node.type.gpus for node in spot)} GPUs"


def _taken(plan: Plan) -> str:
    gpus, cpus = (sum(getattr(b, name) for node in plan.nodes for b in node.bundles) for name in ("gpus", "cpus"))
    return f"{gpus:g} of {plan.gpus} GPUs, {cpus:g} of {plan.cpus} CPUs"


def _shared_memory(config: RunConfig, sizes: Sizes) -> str:
    texts = {
        name: f"{shm_of(kind, sizes):g} GiB, of which {object_store_of(kind, sizes):.3g} for Ray's object store"
        for name, kind in config.cluster.node_types.items()
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _changes(config: RunConfig, sizes_of: SizesOf, plan: Plan) -> Iterator[tuple[str, str]]:
    """Resources that one more sampler, and twice the samples per prompt, would need."""
    actors, rollout = config.actors, config.rollout
    count = actors.sampler_range.min + 1
    elastic = actors.sampler_range.model_copy(update={"min": count, "max": max(count, actors.sampler_range.max)})
    more = config.model_copy(update={"actors": actors.model_copy(update={"samplers": elastic})})
    yield f"with actors.samplers = {count}", _change(plan, more, sizes_of(more))
    larger = config.model_copy(update={"rollout": rollout.model_copy(update={"n": 2 * rollout.n})})
    before, after = sizes_of(config), sizes_of(larger)
    store = f"; groups in flight {before.groups:.3g} -> {after.groups:.3g} GiB in Ray's object store"
    samples = f"{2 * rollout.n * rollout.prompts_per_step:,} samples per step"
    yield f"with rollout.n = {2 * rollout.n}", f"{samples}; {_change(plan, larger, after)}{store}"


def _change(plan: Plan, config: RunConfig, sizes: Sizes) -> str:
    try:
        changed = plan_run(config, sizes)
    except PlacementError as error:
        return f"refused: {str(error).splitlines()[0]}"
    names = list(dict.fromkeys([*plan.counts, *changed.counts]))
    different = [f"{count:+d} x {name}" for name in names if (count := changed.counts[name] - plan.counts[name])]
    if not different:
        return "the same nodes"
    return f"{', '.join(different)} ({changed.gpus} GPUs, {changed.cpus} CPUs in all)"
