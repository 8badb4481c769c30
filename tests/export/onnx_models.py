"""Tiny decoders and a runner for what the tests export from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 640,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

CONFIGS: dict[str, Any] = {
    "llama, tied": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama, untied, biases": lambda: transformers.LlamaConfig(
        **SMALL, tie_word_embeddings=False, attention_bias=True, mlp_bias=True
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=False),
    "smollm3": lambda: transformers.SmolLM3Config(**SMALL),
    "gpt-neox, a quarter rotated": lambda: transformers.GPTNeoXConfig(
        **{key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
        | {"hidden_size": 128, "num_attention_heads": 2},
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    ),
    "olmo2, norms after": lambda: transformers.Olmo2Config(**SMALL),
}


def make_model(config: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """The architecture with weights large enough that every part of it shows in the logits."""
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * 0.2 if parameter.ndim > 1 else values.abs() * 0.5 + 0.2)
    return model


def tokens(count: int, vocabulary: int = 640) -> Any:
    return np.random.default_rng(3).integers(3, vocabulary, (1, count))


def reference(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


class Runner:
    """Feeds a session chunk by chunk through one set of caches, past and present bound to the same memory."""

    def __init__(self, session: Any, interface: Any) -> None:
        self._session = session
        self._facts = interface
        self._binding = session.io_binding()
        self._caches = {}
        for past, present, shape in zip(interface.past, interface.present, interface.cache_shape, strict=True):
            cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            self._caches[past] = cache
            self._binding.bind_ortvalue_input(past, cache)
            self._binding.bind_ortvalue_output(present, cache)
        self.past = 0

    def feed(self, ids: Any) -> Any:
        """Logits for the next tokens ``[1, n]``."""
        facts, count = self._facts, ids.shape[1]
        self._binding.bind_cpu_input(facts.tokens, np.ascontiguousarray(ids))
        self._binding.bind_cpu_input(facts.seqlens_k, np.array([self.past + count - 1], np.int32))
        self._binding.bind_cpu_input(facts.total_sequence_length, np.array(self.past + count, np.int32))
        self._binding.bind_output(facts.logits)
        self._session.run_with_iobinding(self._binding)
        self.past += count
        return next(value.numpy() for value in self._binding.get_outputs() if len(value.shape()) == 3)


def load(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
