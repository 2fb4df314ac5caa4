"""The configuration of a run: settings, rules over several sections, and the loader of YAML files and overrides."""

from cluster.config.tree import (
    ConfigError,
    RunConfig,
    UsageError,
    apply_override,
    build_config,
    dotted_keys,
    key_paths,
    load_config,
    models_in,
    nearest_key,
    section_of,
    shortened,
)

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
