"""The contracts between host, export pipeline, probe and analysis.

Each document names its ``schema_version``. A document of an older version is
upgraded on reading; one of a newer version is refused with a clear message.
This package imports nothing else of edgekit but :mod:`edgekit.errors`.
"""
