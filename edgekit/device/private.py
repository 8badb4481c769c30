"""What tells one device or its owner from another is taken out of a text that somebody may publish."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Properties and keys whose values name one device, one subscriber or one person.
_PRIVATE_KEY = re.compile(
    r"serial|imei|imsi|meid|iccid|msisdn|phone_?number|subscriber|operator|sim\.|gsm\.|\bmac\b|macaddr|bdaddr|bt_?addr"
    r"|wifi.*addr|ssid|dhcp|\bdns|\bip_?addr|net\.(?!bt\.name)|hostname|account|user\.?name|owner|email|android_id|gsf|fingerprint_id"
    r"|uuid|guid|token|secret|password|location|latitude|longitude|timezone|locale|country",
    re.IGNORECASE,
)
#: The same where they stand in a line of their own, with what they are replaced by.
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("EMAIL", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")),
    ("MAC", re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")),
    (
        "IP",
        re.compile(
            r"(?<![0-9.])(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?![0-9.])"
        ),
    ),
    ("IP", re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{1,4}:){3,7}(?::|[0-9A-Fa-f]{1,4})(?![0-9A-Fa-f:])")),
    ("IP", re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6}(?![0-9A-Fa-f:])")),
    # IMEI, IMSI and ICCID are 14 to 20 digits; times in nanoseconds and sizes of devices are written elsewhere.
    ("NUMBER", re.compile(r"(?<![0-9.])[0-9]{14,20}(?![0-9.])")),
    ("USER", re.compile(r"(?<=/home/)[^/\s:]+|(?<=/Users/)[^/\s:]+")),
    ("UUID", re.compile(r"(?<![0-9A-Fa-f-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f-])")),
)
_PROPERTY = re.compile(r"^(\s*)\[([^\]\n]+)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(\s*)([A-Za-z][A-Za-z0-9 ._-]{0,60}?)(\s*[:=]\s*)(\S.*)$", re.MULTILINE)
#: A value so short is found in too many places to be removed everywhere.
_SHORTEST = 5


def is_private(key: str) -> bool:
    """Whether a property's or setting's name says that its value is private."""
    return _PRIVATE_KEY.search(key) is not None


def redact(text: str, known: Iterable[str] = ()) -> str:
    """A text without what names a device, its network or its owner: each is replaced by what it was.

    Values of properties whose names say that they are private are removed wherever they stand, and so are
    addresses, account names and long numbers.

    Args:
        text: what a device printed.
        known: values that are private for certain (its serial number, its address).
    """
    values = {value for value in known if len(value) >= _SHORTEST}
    for match in _PROPERTY.finditer(text):
        if is_private(match.group(2)) and len(match.group(3)) >= _SHORTEST:
            values.add(match.group(3))
    text = _PROPERTY.sub(_without_value, text)
    text = _LINE.sub(_without_line_value, text)
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "<PRIVATE>")
    for name, pattern in _PATTERNS:
        text = pattern.sub(f"<{name}>", text)
    return text


def _without_value(match: re.Match[str]) -> str:
    indent, key, value = match.groups()
    return f"{indent}[{key}]: [<PRIVATE>]" if value and is_private(key) else match.group(0)


def _without_line_value(match: re.Match[str]) -> str:
    indent, key, between, _ = match.groups()
    return f"{indent}{key}{between}<PRIVATE>" if is_private(key) else match.group(0)
