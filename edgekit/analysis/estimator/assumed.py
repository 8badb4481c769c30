"""What is assumed where nothing is known: times of a device that nobody has calibrated, and of an export."""

from __future__ import annotations

#: Of a core: small boards are slower, desktops faster. A plan says so where the time is shown.
MULTIPLY_ADDS_PER_S = 8e9
BYTES_PER_S = 4e9
#: Of one launch of the probe beside its load and its passes, seconds.
LAUNCH_S = 1.0
#: Of one export, seconds.
EXPORT_S = 15.0
