"""The paths of a run that is a RayJob of its own: nothing travels with it, and its pods end with it."""

from __future__ import annotations

import os

from cluster.config import RunConfig
from cluster.config.input_paths import input_paths, output_paths, user_code
from cluster.errors import UsageError


def check_job_paths(config: RunConfig) -> None:
    """Refuse paths that the pods cannot follow, or whose files would end with the pods.

    Raises:
        UsageError: with every such path.
    """
    code = {key: reference.source for key, reference in user_code(config).items() if reference.is_file}
    paths = {**output_paths(config), **input_paths(config), **code}
    relative = [f"{key} = {path}" for key, path in paths.items() if not os.path.isabs(path)]
    if relative:
        raise UsageError(
            f"a RayJob takes no files from this machine, so its paths must be absolute: {', '.join(relative)}; put the "
            "files on the storage of the pods (cluster.storage.path) or into their image, or start the cluster "
            "without --job and send the run with `bonrl submit`, which packs relative inputs"
        )
