"""A small decoder as an ExecuTorch program, what it computes, and a plan that runs it in the probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgekit.schema.bundle import Golden
from edgekit.schema.plan import ExecutorchArtefact, Plan, Trial
from edgekit.schema.recipe import load_recipe

CONTEXT, VOCAB = 96, 600


def writer(tmp_path_factory: pytest.TempPathFactory, layers: int, context: int) -> Callable[[str], Path]:
    """Writes a small model with grouped heads by a recipe."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from edgekit_export.executorch.decoder import build_decoder
    from edgekit_export.executorch.write import write_program
    from edgekit_export.sources.tensors import TensorStore

    config = LlamaConfig(
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=max(128, context),
        tie_word_embeddings=True,
        pad_token_id=None,
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {name: parameter.detach() * 4 for name, parameter in model.named_parameters()}
    store = TensorStore({name: tuple(tensor.shape) for name, tensor in weights.items()}, weights.__getitem__)
    made = build_decoder(config, context=context)

    def write(recipe: str) -> Path:
        path = tmp_path_factory.mktemp("program") / f"{recipe}.pte"
        write_program(made, store, load_recipe(recipe), path)
        return path

    return write


def golden_of(program: Path) -> Golden:
    """What ExecuTorch's own Python runtime, with its own attention kernel, computes."""
    from edgekit_export.gate.executorch_runner import ExecutorchRunner
    from edgekit_export.gate.golden import record_golden

    # Where activations are rounded to 8 bits, the last bit of a sum may move one of them by a whole step.
    tolerance = 1e-4 if program.stem in ("fp32", "fp16") else 0.02 if program.stem == "fp32-kv8" else 0.3
    prompt = list(range(5, 40))
    return record_golden(ExecutorchRunner(program), prompt, context_length=CONTEXT, tolerance=tolerance)


def plan_for(program: Path, trials: list[Trial], golden: Golden | None = None, **changes: object) -> Plan:
    artefact = ExecutorchArtefact(model_path=str(program), context_length=CONTEXT, vocab=VOCAB)
    made = Plan(
        schema_version=1,
        bundle="0" * 64,
        artefact=artefact,
        threads=1,
        affinity=None,
        loads=1,
        trials=trials,
        golden=golden,
        seed=1,
        memory_hz=50,
    )
    return msgspec.structs.replace(made, **changes)
