"""What names a device or its owner is taken out, whatever surrounds it; what tells a kind of device stays."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.device.private import redact


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("[ro.serialno]: [R58M12345AB]\nusb: R58M12345AB gadget", "R58M12345AB"),
        ("[gsm.imei]: [356938035643809]", "356938035643809"),
        ("imei 356938035643809 of the modem", "356938035643809"),
        ("wlan0 Link encap:Ethernet HWaddr 3c:5a:b4:01:02:03", "3c:5a:b4:01:02:03"),
        ("bt 3C-5A-B4-01-02-03", "3C-5A-B4-01-02-03"),
        ("inet addr:192.168.178.23 Bcast", "192.168.178.23"),
        ("inet6 fe80::3e5a:b4ff:fe01:203/64", "fe80::3e5a"),
        ("inet6 2001:db8:85a3:0:0:8a2e:370:7334", "8a2e:370"),
        ("Account {name=anna@example.org, type=com.google}", "anna@example.org"),
        ("/home/anna/.cache/edgekit", "anna"),
        ("android_id=9774d56d682e549c", "9774d56d682e549c"),
        ("Serial Number: ABCDEF0", "ABCDEF0"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    ],
)
def test_private_values_are_removed(text: str, gone: str) -> None:
    assert gone not in redact(text)


def test_what_tells_a_kind_of_device_stays() -> None:
    text = (
        "[ro.product.model]: [PJD110]\n[ro.soc.model]: [SM8650]\n[ro.build.version.release]: [15]\n"
        "CPU part\t: 0xd05\npolicy0 cpuinfo_max_freq 2265600\nTemperature{mValue=25.6, mType=0, mName=AP, mStatus=0}\n"
        "0::/top-app\nu:r:shell:s0\nMemTotal:       11534336 kB\n6.1.75-android14-11\n12:34:56"
    )
    assert redact(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.from_regex(r"[A-Z0-9]{8,16}", fullmatch=True), st.text(max_size=60))
def test_a_serial_number_is_found_wherever_it_stands(before: str, serial: str, after: str) -> None:
    assert serial not in redact(f"{before}{serial}{after}\n[ro.serialno]: [{serial}]", [serial])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_redacted_soon_and_twice_is_as_good_as_once(text: str) -> None:
    once = redact(text)
    assert re.sub(r"<[A-Z]+>", "", redact(once)) == re.sub(r"<[A-Z]+>", "", once)
