"""Names of ARM cores by the numbers that ``/proc/cpuinfo`` gives.

The numbers are the implementer and primary part number of the core's MIDR_EL1
register, as its technical reference manual states them.
"""

from __future__ import annotations

_ARM = 0x41
_HISILICON = 0x48
_NVIDIA = 0x4E
_QUALCOMM = 0x51
_SAMSUNG = 0x53
_APPLE = 0x61

ARM_CORES: dict[tuple[int, int], str] = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD06): "Cortex-A65",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4A): "Neoverse-E1",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_HISILICON, 0xD01): "TaiShan-V110",
    (_HISILICON, 0xD40): "Cortex-A76 (HiSilicon)",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
    (_QUALCOMM, 0x001): "Oryon",
    (_QUALCOMM, 0x800): "Kryo 2xx Gold",
    (_QUALCOMM, 0x801): "Kryo 2xx Silver",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_SAMSUNG, 0x001): "Exynos M1",
    (_SAMSUNG, 0x002): "Exynos M3",
    (_SAMSUNG, 0x003): "Exynos M4",
    (_SAMSUNG, 0x004): "Exynos M5",
    (_APPLE, 0x022): "Icestorm",
    (_APPLE, 0x023): "Firestorm",
    (_APPLE, 0x032): "Blizzard",
    (_APPLE, 0x033): "Avalanche",
}


def arm_core(implementer: int, part: int) -> str:
    """The core's name, or its numbers where the name is not known."""
    return ARM_CORES.get((implementer, part), f"ARM core 0x{implementer:02x}/0x{part:03x}")
