"""``arch:NAME``: an architecture from profiles/models with seeded random weights.

Speed and memory do not depend on the values of weights, so this stands in for models whose
weights are out of reach, and for shapes that nobody published.
"""

from __future__ import annotations

import hashlib
import json

from edgekit.schema.arch_spec import parse_arch
from edgekit.schema.bundle import Source
from edgekit_export.sources.architecture import Skeleton, describe, make_config
from edgekit_export.sources.source import ModelSource
from edgekit_export.sources.tensors import random_tensors

_DEFAULT_SPREAD = 0.02


def open_arch(spec: str) -> ModelSource:
    """The model that ``arch:NAME[:KEY=N]...`` describes; without a tokenizer.

    Raises:
        InputError: no such profile, or options that are none.
        UnsupportedError: the profile's architecture is not supported, or has not got what an option sets.
    """
    parsed = parse_arch(spec)
    config = make_config(parsed.config, origin=spec)
    skeleton = Skeleton(config, origin=spec)
    spread = float(parsed.config.get("initializer_range", _DEFAULT_SPREAD))
    recorded = json.dumps({"config": parsed.config, "seed": parsed.seed, "spread": spread}, sort_keys=True)
    return ModelSource(
        name=parsed.name,
        identity=Source(kind="arch", name=spec, sha256=hashlib.sha256(recorded.encode()).hexdigest(), seed=parsed.seed),
        config=config,
        skeleton=skeleton,
        architecture=describe(config, skeleton),
        tensors=random_tensors(skeleton.shapes, seed=parsed.seed, spread=spread),
        tokenizer=None,
        generation={},
    )
