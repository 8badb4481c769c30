"""Sweeps: models x recipes x runtimes x threads x devices, exported, measured and kept account of.

``cells`` makes the product of a plan, ``journal`` remembers what is done, ``forecast`` says what is to come,
``exports`` (and ``cluster``) make bundles, ``engine`` measures with one worker per device.
"""
