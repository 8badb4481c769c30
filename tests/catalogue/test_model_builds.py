"""Every entry, built by transformers without memory behind it, has the parameters its file states."""

from __future__ import annotations

import math

import pytest

from edgekit.analysis.accounting.families import decoder_of
from edgekit.errors import UnsupportedError
from edgekit.schema.model_profile import load_model_profile, model_names
from edgekit_export.sources.architecture import Skeleton, make_config


@pytest.mark.parametrize("name", model_names())
def test_it_builds_with_the_parameters_it_states(name: str) -> None:
    profile = load_model_profile(name)
    if profile.unbuildable is not None:
        with pytest.raises(UnsupportedError):
            make_config(profile.config, origin=name)
        return
    skeleton = Skeleton(make_config(profile.config, origin=name), origin=name)
    assert profile.parameters is not None
    assert skeleton.parameters == profile.parameters.unique
    try:
        decoder = decoder_of(profile.config, origin=name)
    except UnsupportedError:
        return
    assert decoder.tied == bool(skeleton.tied)
    # Matrices by their elements, not only their sum; where transformers fuses several into one, by the sum.
    matrices = sum(math.prod(shape) for shape in skeleton.shapes.values() if len(shape) == 2)
    ours = [*decoder.linears, *decoder.tables, decoder.embedding, *([] if decoder.tied else [decoder.head])]
    assert sum(matrix.elements for matrix in ours) == matrices
