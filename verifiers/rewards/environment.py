"""The environment variables of user code: the job's own values, where bonrl's actors have others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

# An actor loads only local models: a wrong path then fails at once. User code may fetch what it likes.
ACTOR_VALUES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_JOB_VALUES = "BONRL_JOB_VALUES"  # set for actors: the job's values of these variables as JSON, null if it has none


def of_actor() -> dict[str, str]:
    """Variables of every actor; called in the driver, whose environment is that of the job."""
    return {**ACTOR_VALUES, _JOB_VALUES: json.dumps({name: os.environ.get(name) for name in ACTOR_VALUES})}


def of_user_code(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process for user code, started from a process with `environment`: an actor or the driver."""
    values = dict(environment)
    for name, value in json.loads(values.pop(_JOB_VALUES, "{}")).items():
        values.pop(name, None)
        if value is not None:
            values[name] = value
    return values
