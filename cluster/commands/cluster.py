"""`bonrl cluster`: the machines of a run as files for a platform, and starting and ending them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.commands.options import Overrides
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.launch.layout import Layout
    from cluster.launch.render import Platform

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Describe, start and end the machines of a run (cluster.node_types).",
)

Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN.yaml", help="Configuration of the run, with cluster.node_types; needed unless -c gives one."
    ),
]
Below = Annotated[
    list[Path] | None,
    typer.Option(
        "--config", "-c", metavar="YAML", help="Configuration below RUN.yaml, which wins, such as a preset; repeatable."
    ),
]
PlatformName = Literal["ray-aws", "ray-gcp", "ray-onprem", "kuberay", "slurm"]
To = Annotated[PlatformName, typer.Option("--to", help="Platform.")]
Directory = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Directory for the files [runs/clusters/NAME]."),
]


@app.command()
def render(
    config: Run = None,
    overrides: Overrides = None,
    *,
    to: To,
    below: Below = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write the files there instead of printing them."),
    ] = None,
) -> None:
    """Print or write the files that start the cluster: YAML for `ray up`, KubeRay objects, or an sbatch script.

    \b
    Examples
      bonrl cluster render --to kuberay cluster/presets/multinode.yaml -o k8s
      bonrl cluster render --to ray-aws cluster/presets/multinode.yaml actors.samplers=6
      bonrl cluster render --to slurm -c cluster/presets/8xh100.yaml my.yaml -o job
    """
    layout, platform = _layout(config, below, overrides, to)
    if platform == "kuberay":
        _warn_of_job_paths(layout)
    if output is None:
        typer.echo("---\n".join(_texts(layout, platform).values()), nl=False)
        return
    for file in _write(layout, platform, output):
        typer.echo(f"wrote {file}")


@app.command()
def up(
    config: Run = None,
    overrides: Overrides = None,
    *,
    to: To,
    below: Below = None,
    output: Directory = None,
    job: Annotated[bool, typer.Option("--job", help="kuberay: run the configuration as a RayJob.")] = False,
) -> None:
    """Start the cluster with the platform's command line. On SLURM the job also runs the configuration."""
    from cluster.launch import platform_commands
    from cluster.launch.job_paths import check_job_paths

    layout, platform = _layout(config, below, overrides, to)
    if job and platform != "kuberay":
        raise UsageError(f"--job is for --to kuberay; with --to {platform} leave it out")
    if job:
        check_job_paths(layout.config)
    files = _write(layout, platform, output or _default_directory(layout))
    _run(platform_commands.up(platform, files, job=job))


@app.command()
def down(
    config: Run = None, overrides: Overrides = None, *, to: To, below: Below = None, output: Directory = None
) -> None:
    """End the cluster, and every job on it."""
    from cluster.launch import platform_commands

    layout, platform = _layout(config, below, overrides, to)
    files = _write(layout, platform, output or _default_directory(layout))
    _run(platform_commands.down(layout, platform, files))


@app.command()
def status(
    config: Run = None, overrides: Overrides = None, *, to: To, below: Below = None, output: Directory = None
) -> None:
    """Show the nodes of the cluster."""
    from cluster.launch import platform_commands

    layout, platform = _layout(config, below, overrides, to)
    files = _write(layout, platform, output or _default_directory(layout))
    _run(platform_commands.status(layout, platform, files))


def _layout(
    run: Path | None, below: list[Path] | None, overrides: list[str] | None, to: str
) -> tuple[Layout, Platform]:
    from cluster.checks.dry_run import load_model_facts
    from cluster.checks.placement import placement_warnings, sizes_of
    from cluster.checks.ray_cluster import stated_problems
    from cluster.config import load_config
    from cluster.launch.layout import make_layout
    from cluster.launch.render import Platform

    paths, given = list(below or []), list(overrides or [])
    if run is not None and "=" in str(run) and not run.exists():  # `-c my.yaml KEY=VALUE`, as for the other commands
        given.insert(0, str(run))
    elif run is not None:
        paths.append(run)
    if not paths:
        raise UsageError("give the configuration of the run, with cluster.node_types: RUN.yaml, or -c RUN.yaml")
    config = load_config(paths, given)
    if problems := list(stated_problems(config)):  # before anyone pays for nodes that are too few
        raise UsageError("\n".join(problems))
    model, missing = load_model_facts(config, must_exist=False)
    layout = make_layout(config, sizes_of(config, model))
    for warning in [*([missing] if missing else []), *placement_warnings(config, model)]:
        typer.echo(f"warning: {warning}", err=True)
    return layout, Platform(to)


def _warn_of_job_paths(layout: Layout) -> None:
    """Warn of relative paths; only rayjob.yaml needs absolute ones, so they are not refused."""
    from cluster.launch.job_paths import check_job_paths

    try:
        check_job_paths(layout.config)
    except UsageError as error:
        typer.echo(f"warning: rayjob.yaml cannot be used as it is: {error}", err=True)


def _texts(layout: Layout, platform: Platform) -> dict[str, str]:
    from cluster.launch.render import render

    return render(layout, platform)


def _default_directory(layout: Layout) -> Path:
    return Path("runs", "clusters", layout.name)


def _write(layout: Layout, platform: Platform, directory: Path) -> list[Path]:
    texts = _texts(layout, platform)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {directory}: cannot be written: {error.strerror}") from error
    return [directory / name for name in texts]


def _run(command: list[str]) -> None:
    from cluster.launch import platform_commands

    typer.echo(f"running: {' '.join(command)}", err=True)
    raise typer.Exit(platform_commands.run(command))
