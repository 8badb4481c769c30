"""The model that holds one layer at a time computes what the whole one computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch

from edgekit_export.gate.logits import logits_by_piece
from edgekit_export.gate.reference import choices
from edgekit_export.gate.streamed import SourceWeights, Streamed
from edgekit_export.sources import ModelSource, open_source

TOKENS = [(7 * index + 3) % 90 for index in range(40)]


@pytest.fixture(scope="module")
def source_of(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSource]:
    def get(name: str) -> ModelSource:
        path = trained if name == "trained" else families.family(name).save(tmp_path_factory.mktemp(name))
        return open_source(str(path))

    return get


def streamed(source: ModelSource) -> Streamed:
    return Streamed(source, SourceWeights(source), stage="test")


def filled(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that take memory."""
    return {name for name, value in model.named_parameters() if value.untyped_storage().nbytes() >= value.nbytes}


@pytest.mark.parametrize("name", ["trained", "gpt2", "bloom", "gemma2", "lfm2"])
def test_logits_are_those_of_the_whole_model(name: str, source_of: Callable[[str], ModelSource]) -> None:
    source = source_of(name)
    with torch.inference_mode():
        wanted = source.load_model()(torch.tensor([TOKENS]), use_cache=False).logits[0]
        one = streamed(source)
        for _ in range(2):
            found = torch.cat([piece.clone() for piece in logits_by_piece(one.model, TOKENS)])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_no_two_layers_are_in_memory(source_of: Callable[[str], ModelSource]) -> None:
    model = streamed(source_of("trained")).model
    always = filled(model)
    assert not [name for name in always if ".layers." in name]
    seen: list[set[str]] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: seen.append(filled(model) - always))
    with torch.inference_mode():
        model(torch.tensor([TOKENS]), use_cache=False)
    assert filled(model) == always
    for index, names in enumerate(seen):
        own = {name for name, _ in model.named_parameters() if name.startswith(f"model.layers.{index}.")}
        assert names == own
    assert len(seen) == len(model.model.layers)


def test_choices_are_the_greedy_continuation_as_far_as_it_is_followed(
    source_of: Callable[[str], ModelSource],
) -> None:
    source, prompt = source_of("trained"), TOKENS[:9]
    model, greedy = source.load_model(), list[int]()
    with torch.inference_mode():
        for _ in range(8):
            logits = model(torch.tensor([[*prompt, *greedy]]), use_cache=False).logits
            greedy.append(int(logits[0, -1].argmax()))
    assert choices(source, prompt, greedy) == greedy
    other = [*greedy[:3], (greedy[3] + 1) % 90, *greedy[4:]]
    assert choices(source, prompt, other)[:4] == greedy[:4]
