"""The export pipeline: model source to bundle. Needs torch; knows nothing of devices.

It talks to the rest of edgekit only through :mod:`edgekit.schema`.
"""

import logging as _logging
import os as _os

# Where torchao is installed (ExecuTorch brings it), transformers imports it, and each import tells the user about
# CUDA libraries that are not there and about an API of its own that is deprecated.
for _name in ("torchao", "torch.utils._pytree"):
    _logging.getLogger(_name).setLevel(_logging.ERROR)

# onnxruntime 1.32 reports to its maker unless it is told not to, and keeps a database for that in the user's cache.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
