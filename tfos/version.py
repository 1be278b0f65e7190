"""The version of tfos, as pyproject.toml has it."""

from importlib import metadata

__version__ = metadata.version("tfos")
