"""The export pipeline: model source to bundle. Needs torch; knows nothing of devices.

It talks to the rest of edgekit only through :mod:`edgekit.schema`.
"""
