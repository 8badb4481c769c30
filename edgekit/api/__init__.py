"""The steps of the toolkit as functions; the command line is a thin layer over them.

Use them from the package itself: ``edgekit.export(...)``, ``edgekit.probe(...)``.
"""

from edgekit.api.analysing import compare, import_results, operators, query, report, timeline
from edgekit.api.calibrating import calibrate, fit_profile
from edgekit.api.delivering import prune, push
from edgekit.api.estimating import check_estimates, estimate
from edgekit.api.exporting import export, verify
from edgekit.api.informing import check_device, devices, doctor, model, models, models_report
from edgekit.api.measuring import probe, pull
from edgekit.api.running import run
from edgekit.api.surveying import preview_survey, published_survey, survey
from edgekit.api.sweeping import preview_sweep, sweep

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
