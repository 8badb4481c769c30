"""A model source that was opened: found, complete and understood, its weights not yet read."""

from __future__ import annotations

import math
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel

from edgekit.errors import InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import Architecture, FileRole, Source, Tokenizer
from edgekit_export.allocator import trim
from edgekit_export.sources.architecture import Skeleton
from edgekit_export.sources.tensors import TensorStore
from edgekit_export.sources.tokenizer import TokenizerSource

if TYPE_CHECKING:
    import torch


class ModelSource:
    """One model, whatever it came from.

    Attributes:
        name: short name for tables and folders, e.g. ``smollm2-135m``.
        identity: the source as bundles record it.
        config: transformers' configuration.
        architecture: the facts of the decoder.
        tensors: the weights by transformers' parameter names, float32, each read when asked for.
        tokenizer: the tokenizer and what belongs to it, or None (``arch:`` sources have none).
        tied: other names of a weight that stands under one name in ``tensors``.
        generation: ``generation_config.json`` of the source, or what stands for it.
    """

    def __init__(
        self,
        *,
        name: str,
        identity: Source,
        config: PretrainedConfig,
        skeleton: Skeleton,
        architecture: Architecture,
        tensors: TensorStore,
        tokenizer: TokenizerSource | None,
        generation: dict[str, Any],
        license_files: list[Path] | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.config = config
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.generation = generation
        self._license_files = license_files or []
        skeleton.check(tensors)
        self.tied = dict(skeleton.tied)
        self.tensors = tensors.restricted_to(skeleton.shapes)

    def load_model(self, *, progress: Progress = silent) -> PreTrainedModel:
        """The reference: eager attention, float32, in eval mode.

        Raises:
            InputError: a weight that cannot be read.
        """
        state = {}
        # Large ones first: what reading one needs beside it must not come on top of all the others.
        names = sorted(self.tensors, key=lambda name: -math.prod(self.tensors.shapes[name]))
        for index, name in enumerate(names):
            progress(ProgressEvent("load model", index, len(self.tensors), "tensors", name))
            state[name] = self.tensors[name]
        progress(ProgressEvent("load model", len(self.tensors), len(self.tensors), "tensors"))
        model = self._model_of(state)
        del state
        trim()
        return model

    def empty_model(self) -> PreTrainedModel:
        """The reference without its weights: every parameter is one zero, seen in the parameter's shape."""
        import torch

        return self._model_of({name: torch.zeros(()).expand(shape) for name, shape in self.tensors.shapes.items()})

    def _model_of(self, state: dict[str, torch.Tensor]) -> PreTrainedModel:
        import torch

        # A tied weight that is not named would be made, given random values, and thrown away.
        state |= {other: state[name] for other, name in self.tied.items()}
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)]
        with quiet_transformers():
            model = kind.from_pretrained(
                None, config=self.config, state_dict=state, dtype=torch.float32, attn_implementation="eager"
            )
        return model.eval()

    @cached_property
    def tokenizer_facts(self) -> Tokenizer | None:
        """What a caller must know about the tokenizer, as bundles record it; None without one."""
        return None if self.tokenizer is None else self.tokenizer.facts(self.config, self.generation)

    @property
    def eos_ids(self) -> list[int]:
        """Every token that ends an answer, as the source's files state them."""
        return self.tokenizer_facts.eos_ids if self.tokenizer_facts else []

    def tokenizer_digest(self) -> str | None:
        """SHA-256 over the tokenizer's complete definition and chat template; None without one."""
        import hashlib

        if self.tokenizer is None:
            return None
        tokenizer = self.tokenizer.object
        backend = getattr(tokenizer, "backend_tokenizer", None)
        definition = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
        template = tokenizer.chat_template
        return hashlib.sha256(f"{definition}\0{template}\0{tokenizer.special_tokens_map}".encode()).hexdigest()

    def save_side_files(self, directory: Path) -> dict[FileRole, list[str]]:
        """Write everything that belongs to the model but its weights into ``directory``.

        Returns:
            File names by the role they have in a bundle.
        """
        import json

        written: dict[FileRole, list[str]] = {"config": ["config.json"]}
        (directory / "config.json").write_text(
            json.dumps(self.config.to_dict(), indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8"
        )
        if self.generation:
            text = json.dumps(self.generation, indent=2, sort_keys=True) + "\n"
            (directory / "generation_config.json").write_text(text, encoding="utf-8")
            written["config"].append("generation_config.json")
        if self.tokenizer is not None:
            written["tokenizer"] = self.tokenizer.save(directory)
        if self._license_files:
            written["license"] = []
            for file in self._license_files:
                shutil.copyfile(file, directory / file.name)
                written["license"].append(file.name)
        return written


def quiet_transformers() -> Any:
    """A context in which transformers draws no progress bars and logs nothing below errors."""
    return _Quiet()


class _Quiet:
    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity = logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bars:
            logging.enable_progress_bar()


def short_name(text: str) -> str:
    """``text`` as a name for folders and tables: lower case, digits, dots and dashes."""
    import re

    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
    if not name:
        raise InputError(f"no name can be made from {text!r}", hint="give the model's file or folder a name")
    return name[:80]
