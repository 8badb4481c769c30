"""Weights under the names that a family was published with, found under those its class has now.

GPT-NeoX's head is ``embed_out`` in its files and ``lm_head`` in its class; GPT-2's and BLOOM's files leave out
the name of the decoder inside of the model.
"""

from __future__ import annotations

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from edgekit_export.sources.architecture import Skeleton
from edgekit_export.sources.tensors import TensorStore


def under_own_names(tensors: TensorStore, config: PretrainedConfig, skeleton: Skeleton) -> TensorStore:
    """``tensors`` with each name that the skeleton does not know replaced by the one that transformers loads it to."""
    known = {*skeleton.shapes, *skeleton.tied, *skeleton.persistent_buffers}
    strange = [name for name in tensors if name not in known]
    if not strange:
        return tensors
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    # Only names change here; a family whose files hold other tensors than its class keeps missing them.
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    rules = [
        rule
        for key in (config.model_type, kind.__name__)
        for rule in get_checkpoint_conversion_mapping(key) or ()
        if type(rule) is WeightRenaming
    ]
    prefix = kind.base_model_prefix
    renamed: dict[str, str] = {}
    for name in strange:
        new = name
        for rule in rules:
            new = rule.rename_source_key(new)[0]
        for candidate in (new, f"{prefix}.{new}"):
            if candidate in known and candidate not in tensors.shapes:
                renamed[name] = candidate
                break
    return tensors.renamed(renamed)
