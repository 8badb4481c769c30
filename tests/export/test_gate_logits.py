"""Logits piece by piece are the logits; a file of them gives back what was put in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig

from edgekit_export.gate import logits as module
from edgekit_export.gate.logits import LogitsFile, logits_by_piece
from edgekit_export.onnx.calibrate import measure_energy

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama, tied": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "gemma 2, capped logits": Gemma2Config(**SIZES, **HEADS, final_logit_softcapping=2.0),
    "gpt-neox": GPTNeoXConfig(**SIZES, num_attention_heads=4),
}
TOKENS = [(7 * index + 3) % 300 for index in range(module.PIECE * 2 + 9)]


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_are_the_whole(name: str) -> None:
    model = made(name)
    with torch.inference_mode():
        wanted = model(torch.tensor([TOKENS]), use_cache=False).logits[0]
        found = [piece.clone() for piece in logits_by_piece(model, TOKENS)]
        again = model(torch.tensor([TOKENS[::-1]]), use_cache=False).logits[0]
    assert [len(piece) for piece in found] == [module.PIECE, module.PIECE, 9]
    torch.testing.assert_close(torch.cat(found), wanted, atol=1e-5, rtol=1e-5)
    # The model computes for itself again afterwards.
    assert not torch.allclose(again, wanted, atol=1e-3)


def test_a_model_that_cannot_be_asked_for_some_positions() -> None:
    model = made("llama, tied")
    inner = model.forward
    model.forward = lambda input_ids, use_cache: inner(input_ids, use_cache=use_cache)
    with torch.inference_mode():
        [found] = list(logits_by_piece(model, TOKENS))
    assert len(found) == len(TOKENS)


def test_energy_is_the_mean_over_all_positions() -> None:
    model = made("llama, tied")
    seen: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        model(torch.tensor([TOKENS]), use_cache=False)
    hook.remove()
    energy = measure_energy(model, TOKENS)
    torch.testing.assert_close(energy["model.embed_tokens.weight"], seen[0].square().mean(0), atol=1e-5, rtol=1e-4)


def test_a_file_gives_back_its_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 17)).astype(np.float32)
    file = LogitsFile()
    for start in range(0, 50, 20):
        file.append(rows[start : start + 20])
    assert len(file) == 50
    np.testing.assert_array_equal(file[13:41], rows[13:41])
    np.testing.assert_array_equal(file[40:99], rows[40:])
    file.append(rows[:1])
    np.testing.assert_array_equal(file[50:], rows[:1])
