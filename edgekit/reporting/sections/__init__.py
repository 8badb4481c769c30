"""The report's sections, one module each.

A module of this package is a section: it has ``ORDER``, its place on the page, and
``section(report)``, which makes a :class:`~edgekit.reporting.sections.base.Section` of a
:class:`~edgekit.reporting.sections.base.Report`, or None where there is nothing to
show. Nothing else registers it.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from importlib import import_module
from typing import Any

from edgekit.reporting.sections.base import Report, Section


def all_sections(report: Report) -> list[Section]:
    """The sections that have something to show, in the page's order."""
    found = [module.section(report) for module in _modules()]
    kept = [
        dataclasses.replace(section, tables=[table for table in section.tables if table.rows])
        for section in found
        if section is not None
    ]
    return [section for section in kept if section.plots or section.tables or section.notes]


def _modules() -> list[Any]:
    names = [entry.name for entry in pkgutil.iter_modules(__path__) if entry.name != "base"]
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return sorted(modules, key=lambda module: (module.ORDER, module.__name__))
