"""Look up known vulnerabilities of everything that is installed: ``make audit``.

pip-audit asks the database that PyPI offers beside each release. Packages of Debian, compilers, adb and what runs on
devices are not covered. Where the database is out of reach nothing is judged, which is said and is no failure, unless
EDGEKIT_REQUIRE_AUDIT=1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from typing import Any

#: The database answers in seconds; there are some hundred packages to ask for.
TIMEOUT_S = 600
#: The distribution itself; it is on no index.
OURS = "edgekit-slm"


def judge(answer: dict[str, Any], *, required: bool) -> tuple[int, str]:
    """The exit code, and what to say, from pip-audit's JSON."""
    packages = [one for one in answer["dependencies"] if one["name"] != OURS]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    found = [(one["name"], one["version"], one["vulns"]) for one in packages if one.get("vulns")]
    lines = [
        f"{name} {version}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no release yet'}"
        for name, version, vulnerabilities in found
        for one in vulnerabilities
    ]
    asked = len(packages) - len(skipped)
    lines.append(f"{len(lines)} known vulnerabilities in {asked} packages; {len(skipped)} could not be asked for")
    if found:
        return 1, "\n".join(lines)
    if not asked:
        lines.append("the database is out of reach: nothing was judged")
        return int(required), "\n".join(lines)
    return 0, "\n".join(lines)


def main() -> int:
    """Run pip-audit, which is the first argument, over this environment."""
    command = [sys.argv[1], "--path", sysconfig.get_path("purelib"), "--format", "json", "--progress-spinner", "off"]
    required = os.environ.get("EDGEKIT_REQUIRE_AUDIT") == "1"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        print(f"pip-audit gave no answer ({error}): nothing was judged")
        return int(required)
    code, text = judge(answer, required=required)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
