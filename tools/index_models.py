"""Pack all model profiles into profiles/models/index.json, so that commands need not parse each file.

usage: python tools/index_models.py [--check]
With --check nothing is written and the exit code is 1 where the index is out of date.
"""

from __future__ import annotations

import sys

from edgekit.schema.model_index import build_index, index_path
from edgekit.schema.storage import write_atomically


def main() -> int:
    """Write or check."""
    path, wanted = index_path(), build_index()
    if path.is_file() and path.read_bytes() == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"out of date: {path.name}")
        return 1
    write_atomically(path, wanted)
    print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
