"""A GGUF of random weights in the shape of `CONFIG.json`: `CONFIG.json TARGET.gguf`, Q4_0, embedding and head Q8_0.

Speed and memory do not depend on the values.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

#: (elements of a block, bytes of its numbers) after a 2-byte scale.
BLOCKS = {GGMLQuantizationType.Q4_0: (32, 16), GGMLQuantizationType.Q8_0: (32, 32)}
SCALE = np.float16(0.002)

config: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
kind = config["model_type"]
hidden, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
kv_heads = config.get("num_key_value_heads") or heads
dim = config.get("head_dim") or hidden // heads
draw = np.random.default_rng(0)
writer = GGUFWriter(sys.argv[2], kind)


def matrix(name: str, rows: int, columns: int, format: GGMLQuantizationType) -> None:
    """One matrix of random blocks."""
    block, size = BLOCKS[format]
    count = rows * columns // block
    data = np.empty((count, 2 + size), np.uint8)
    data[:, :2] = np.frombuffer(SCALE.tobytes(), np.uint8)
    data[:, 2:] = draw.integers(0, 256, (count, size), np.uint8)
    writer.add_tensor(name, data.reshape(rows, -1), raw_dtype=format)


def vector(name: str, size: int, value: float) -> None:
    """One vector of equal numbers."""
    writer.add_tensor(name, np.full(size, value, np.float32))


writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(hidden)
writer.add_block_count(layers)
writer.add_feed_forward_length(ffn)
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_key_length(dim)
writer.add_value_length(dim)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base((config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 1e4)
writer.add_rope_dimension_count(dim)
writer.add_vocab_size(vocabulary)
# llama.cpp fails without a vocabulary; these tokens mean nothing.
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("default")
writer.add_token_list([f"t{index}" for index in range(vocabulary)])
writer.add_token_types([1] * vocabulary)
writer.add_token_merges(["t 0"])

four, eight = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0
matrix("token_embd.weight", vocabulary, hidden, eight)
if not config.get("tie_word_embeddings"):
    matrix("output.weight", vocabulary, hidden, eight)
vector("output_norm.weight", hidden, 1.0)
for layer in range(layers):
    stem = f"blk.{layer}"
    vector(f"{stem}.attn_norm.weight", hidden, 1.0)
    vector(f"{stem}.ffn_norm.weight", hidden, 1.0)
    for name, rows in (("attn_q", heads * dim), ("attn_k", kv_heads * dim), ("attn_v", kv_heads * dim)):
        matrix(f"{stem}.{name}.weight", rows, hidden, four)
        if kind == "qwen2":
            vector(f"{stem}.{name}.bias", rows, 0.0)
    matrix(f"{stem}.attn_output.weight", hidden, heads * dim, four)
    matrix(f"{stem}.ffn_gate.weight", ffn, hidden, four)
    matrix(f"{stem}.ffn_up.weight", ffn, hidden, four)
    matrix(f"{stem}.ffn_down.weight", hidden, ffn, four)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
