"""``edgekit.estimate`` and ``edgekit.check_estimates``: predictions before anything is exported or measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.analysis.configurations import configuration

if TYPE_CHECKING:
    from edgekit.analysis.estimator.predict import Estimate
    from edgekit.analysis.estimator.proof import Proof
    from edgekit.schema.recipe import KvCache

#: Used where the model allows it; what an export takes by default.
DEFAULT_CONTEXT = 2048


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
    kv_cache: KvCache = "float32",
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
        kv_cache: ``int8`` makes the recipe the one called ``RECIPE-kv8``.

    Raises:
        InputError: an unknown name, contradictory shapes, or sizes that cannot be.
        UnsupportedError: an architecture without an operator model, or a recipe that the runtime cannot serve.
    """
    from edgekit.analysis.accounting.families import decoder_of
    from edgekit.analysis.estimator.predict import estimate as predict
    from edgekit.schema.device_profile import load_device_profile
    from edgekit.schema.recipe import load_recipe, with_kv_cache

    decoder = decoder_of(configuration(model), origin=model)
    if context is None:
        context = min(DEFAULT_CONTEXT, decoder.max_position or DEFAULT_CONTEXT)
    return predict(
        decoder,
        load_recipe(*with_kv_cache([recipe], kv_cache)),
        load_device_profile(device),
        runtime=runtime,
        context=context,
        prompt=prompt,
        generated=generated,
        threads=threads,
        memory_gib=memory_gib,
    )


def check_estimates(name: str) -> Proof:
    """Each model of a measurement, predicted from the others.

    Args:
        name: one of :func:`edgekit.schema.measurements.measurement_names` (published by others) or
            :func:`edgekit.schema.own_runs.own_runs_names` (our own runs), or a ``.json`` file of the latter.

    Raises:
        InputError: no such measurements.
    """
    from edgekit.analysis.estimator.proof import proof_of
    from edgekit.analysis.estimator.proof_runs import proof_of_runs
    from edgekit.errors import InputError
    from edgekit.schema.measurements import load_measurements, measurement_names
    from edgekit.schema.own_runs import load_own_runs, own_runs_names

    if name in own_runs_names() or name.endswith(".json"):
        return proof_of_runs(load_own_runs(name))
    if name not in measurement_names():
        names = [*measurement_names(), *own_runs_names()]
        raise InputError(f"no measurements are called {name!r}", hint=f"measurements: {', '.join(names)}")
    return proof_of(load_measurements(name))
