"""The twelve claims of "Small Language Models: Survey, Measurements, and Insights" (arXiv 2409.15790), on any data.

``evidence`` is what claims are tested on, whoever measured it; ``from_runs`` and ``published`` make it. Each claim is
a function in ``latency``, ``memory``, ``quantization``, ``hardware`` or ``work`` that states hypotheses; ``testing``
gives them effects with intervals, and ``judging`` corrects for their number and decides.
"""
