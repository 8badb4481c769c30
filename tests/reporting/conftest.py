from __future__ import annotations

import sys
from pathlib import Path

# data_runs.py beside the packages' folders serves several of them.
sys.path.insert(0, str(Path(__file__).parents[1]))
