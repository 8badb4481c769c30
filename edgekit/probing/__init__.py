"""From a plan to raw events: sessions of the native probe on a device."""
