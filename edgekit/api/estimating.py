"""``edgekit.estimate`` and ``edgekit.check_estimates``: predictions before anything is exported or measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.analysis.accounting.decoder import Decoder
    from edgekit.analysis.estimator.predict import Estimate
    from edgekit.analysis.estimator.proof import Prediction

#: Used where the model allows it; what an export takes by default.
DEFAULT_CONTEXT = 2048
#: No configuration file comes near this.
_MAX_CONFIG_BYTES = 4 * 1024 * 1024


def estimate(
    model: str,
    *,
    device: str,
    recipe: str = "w4",
    runtime: str = "onnxruntime",
    prompt: int = 512,
    generated: int = 128,
    context: int | None = None,
    threads: int | None = None,
    memory_gib: int | None = None,
) -> Estimate:
    """Whether a model will fit on a device, and how fast it will be.

    Args:
        model: a built-in name, ``arch:NAME[:KEY=N]...``, or a folder with a model's ``config.json``.
        device: name of a device profile.
        recipe: name of a quantization.
        runtime: what runs it.
        prompt: tokens of the prompt.
        generated: tokens generated.
        context: tokens that fit in the cache; None: 2048, or what the model allows.
        threads: CPU threads; None: all cores outside the slowest cluster.
        memory_gib: the device's memory; None: the smallest it is sold with.

    Raises:
        InputError: an unknown name, contradictory shapes, or sizes that cannot be.
        UnsupportedError: an architecture without an operator model, or a recipe that the runtime cannot serve.
    """
    from edgekit.analysis.accounting.families import decoder_of
    from edgekit.analysis.estimator.predict import estimate as predict
    from edgekit.schema.device_profile import load_device_profile
    from edgekit.schema.recipe import load_recipe

    decoder = decoder_of(configuration(model), origin=model)
    if context is None:
        context = min(DEFAULT_CONTEXT, decoder.max_position or DEFAULT_CONTEXT)
    return predict(
        decoder,
        load_recipe(recipe),
        load_device_profile(device),
        runtime=runtime,
        context=context,
        prompt=prompt,
        generated=generated,
        threads=threads,
        memory_gib=memory_gib,
    )


def check_estimates(name: str) -> list[Prediction]:
    """Each model of a published measurement, predicted from the others.

    Args:
        name: one of :func:`edgekit.schema.measurements.measurement_names`.

    Raises:
        InputError: no such measurements.
    """
    from edgekit.analysis.estimator.proof import leave_one_out
    from edgekit.schema.measurements import load_measurements

    return leave_one_out(load_measurements(name))


def configuration(model: str) -> Mapping[str, Any]:
    """The transformers configuration of a model named as for :func:`estimate` (errors as there)."""
    folder = Path(model)
    if folder.is_dir():
        return _read_config(folder / "config.json")
    if folder.is_file() and folder.suffix == ".json":
        return _read_config(folder)
    if model.startswith("arch:"):
        from edgekit.schema.arch_spec import parse_arch

        return parse_arch(model).config
    from edgekit.schema.model_profile import load_model_profile

    return load_model_profile(model).config


def known_decoder(source: str) -> Decoder | None:
    """The tensors of a model source, None where they are known only after opening it.

    Raises:
        InputError: a broken configuration, or an ``arch:`` source that is none.
    """
    from edgekit.analysis.accounting.families import decoder_of
    from edgekit.schema.model_profile import model_names

    if not source.startswith("arch:") and source not in model_names() and not (Path(source) / "config.json").is_file():
        return None
    try:
        return decoder_of(configuration(source), origin=source)
    except UnsupportedError:
        return None


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise InputError(f"read {path}: larger than any configuration")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}", hint="name a folder with a config.json") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"read {path}: not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise InputError(f"read {path}: no JSON object")
    return raw
