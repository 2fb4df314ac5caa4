"""The configuration of a run: settings, rules over several sections, and the loader of YAML files and overrides."""

from cluster.config.explanations import nearest_key
from cluster.config.loading import build_config, dotted_keys, load_config, shortened
from cluster.config.tree import RunConfig, key_paths, models_in, section_of
from cluster.config.yaml_reader import ConfigError, apply_override
from cluster.errors import UsageError

__all__ = [
    "ConfigError",
    "RunConfig",
    "UsageError",
    "apply_override",
    "build_config",
    "dotted_keys",
    "key_paths",
    "load_config",
    "models_in",
    "nearest_key",
    "section_of",
    "shortened",
]
