"""Will it fit, how fast will it be: predictions from bytes, operations and a device's few figures.

``work`` counts what a pass over a model reads and computes; ``predict`` turns that into times and memory on a
device; ``proof`` holds the same terms against published measurements, each model predicted from the others.
"""
