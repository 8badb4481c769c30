"""edgekit: export small language models, put them on a device, measure them there.

Each step of the toolkit is a function of this package; the command line is a thin
layer over them. Importing the package is cheap: the functions load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.api import (
        calibrate,
        check_device,
        check_estimates,
        compare,
        devices,
        doctor,
        estimate,
        export,
        fit_profile,
        import_results,
        model,
        models,
        models_report,
        operators,
        preview_survey,
        preview_sweep,
        probe,
        prune,
        published_survey,
        pull,
        push,
        query,
        report,
        run,
        survey,
        sweep,
        timeline,
        verify,
    )

__all__ = [
    "calibrate",
    "check_device",
    "check_estimates",
    "compare",
    "devices",
    "doctor",
    "estimate",
    "export",
    "fit_profile",
    "import_results",
    "model",
    "models",
    "models_report",
    "operators",
    "preview_survey",
    "preview_sweep",
    "probe",
    "prune",
    "published_survey",
    "pull",
    "push",
    "query",
    "report",
    "run",
    "survey",
    "sweep",
    "timeline",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("edgekit.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
