"""Where the toolkit's own data lies: profiles and device scripts, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def _data(name: str) -> Path:
    """A data folder: inside the installed wheel, or beside the package in a checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def profiles_dir() -> Path:
    """Folder of the TOML profiles (``quantization/``, ``models/``, ``devices/``, ``protocols/``)."""
    return _data("profiles")


def device_scripts_dir() -> Path:
    """Folder of everything that runs on a device: the probe's sources and shell scripts."""
    return _data("device_scripts")


def cache_dir() -> Path:
    """The user's cache: ``EDGEKIT_CACHE``, else the platform's cache folder."""
    override = os.environ.get("EDGEKIT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("edgekit"))


def data_dir() -> Path:
    """What the user's own measurements leave for later: ``EDGEKIT_DATA``, else the platform's folder for user data."""
    override = os.environ.get("EDGEKIT_DATA")
    return Path(override) if override else Path(platformdirs.user_data_dir("edgekit"))
