"""``arch:NAME``: an architecture from profiles/models with seeded random weights.

Speed and memory do not depend on the values of weights, so this stands in for models whose
weights are out of reach, in any number of layers.
"""

from __future__ import annotations

import hashlib
import json
import re

from edgekit.errors import InputError
from edgekit.schema.bundle import Source
from edgekit.schema.model_profile import load_model_profile, with_layers
from edgekit_export.sources.architecture import Skeleton, describe, make_config
from edgekit_export.sources.source import ModelSource
from edgekit_export.sources.tensors import random_tensors

#: No published decoder has more; beyond it the option is a slip of the finger.
MAX_LAYERS = 1000
_DEFAULT_SPREAD = 0.02
_FORM = "arch:NAME[:layers=N][:seed=S]"


def open_arch(spec: str) -> ModelSource:
    """The model that ``arch:NAME[:layers=N][:seed=S]`` describes; without a tokenizer.

    Raises:
        InputError: no such profile, or options that are none.
        UnsupportedError: the profile's architecture is not supported.
    """
    name, _, rest = spec.removeprefix("arch:").partition(":")
    options = _options(rest, spec)
    profile = load_model_profile(name)
    values = dict(profile.config)
    layers, seed = options.get("layers"), options.get("seed", 0)
    if layers is not None:
        values = with_layers(values, layers, origin=spec)
    config = make_config(values, origin=spec)
    skeleton = Skeleton(config, origin=spec)
    spread = float(values.get("initializer_range", _DEFAULT_SPREAD))
    recorded = json.dumps({"config": values, "seed": seed, "spread": spread}, sort_keys=True)
    suffix = f"-l{layers}" if layers is not None else ""
    return ModelSource(
        name=f"{name}-random{suffix}" + (f"-s{seed}" if seed else ""),
        identity=Source(kind="arch", name=spec, sha256=hashlib.sha256(recorded.encode()).hexdigest(), seed=seed),
        config=config,
        skeleton=skeleton,
        architecture=describe(config, skeleton),
        tensors=random_tensors(skeleton.shapes, seed=seed, spread=spread),
        tokenizer=None,
        generation={},
    )


def _options(text: str, spec: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for part in text.split(":") if text else []:
        match = re.fullmatch(r"(layers|seed)=(\d{1,9})", part)
        if match is None or match[1] in options:
            raise InputError(f"model source {spec!r}: {part!r} is no option", hint=f"the form is {_FORM}")
        options[match[1]] = int(match[2])
    if not 1 <= options.get("layers", 1) <= MAX_LAYERS:
        raise InputError(f"model source {spec!r}: layers must be 1 to {MAX_LAYERS}", hint=f"the form is {_FORM}")
    return options
