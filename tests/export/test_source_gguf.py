from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import write_gguf

from edgekit.errors import InputError, UnsupportedError
from edgekit_export.gate.text import read_text
from edgekit_export.sources import open_source
from edgekit_export.sources.gguf_rope import llama3_factors
from edgekit_export.sources.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def gguf_file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "Tiny.F32.gguf"
    write_gguf(trained, target)
    return target


def test_weights_configuration_and_tokenizer_arrive_intact(trained: Path, gguf_file: Path, tmp_path: Path) -> None:
    plain, source = open_source(str(trained)), open_source(str(gguf_file))
    assert source.name == "tiny.f32"
    assert source.identity.weights_were is None
    assert source.identity.license == "apache-2.0"
    assert source.architecture == plain.architecture
    assert set(source.tensors) == set(plain.tensors)
    assert all(torch.equal(source.tensors[name], plain.tensors[name]) for name in plain.tensors)
    tokens = torch.arange(50)[None]
    with torch.no_grad():
        assert torch.equal(source.load_model()(tokens).logits, plain.load_model()(tokens).logits)

    assert source.tokenizer_facts == plain.tokenizer_facts
    source.save_side_files(tmp_path)
    assert source.tokenizer is not None
    assert plain.tokenizer is not None
    saved = load_tokenizer(tmp_path)
    chat = [{"role": "user", "content": "How long is the hall?"}]
    for text in (read_text(), "<|start|>user 1984", " 3 spaces", "😀"):
        expected = plain.tokenizer.object(text)["input_ids"]
        assert source.tokenizer.object(text)["input_ids"] == expected
        assert saved(text)["input_ids"] == expected
    wanted = plain.tokenizer.object.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert saved.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == wanted
    assert (
        sorted(path.name for path in tmp_path.iterdir() if "gguf" in path.name or path.name == "tokenizer.model") == []
    )


@pytest.mark.parametrize(("stored", "error"), [("Q8_0", 0.02), ("Q4_1", 0.2), ("F16", 1e-3)])
def test_quantized_weights_are_dequantized_and_said_to_be(
    trained: Path, tmp_path: Path, stored: str, error: float
) -> None:
    import gguf

    write_gguf(trained, tmp_path / "q.gguf", stored=stored)
    plain, source = open_source(str(trained)), open_source(str(tmp_path / "q.gguf"))
    assert source.identity.weights_were == (None if stored == "F16" else stored)
    name = "model.layers.1.mlp.down_proj.weight"
    wanted, found = plain.tensors[name], source.tensors[name]
    assert float((found - wanted).norm() / wanted.norm()) < error
    kind = gguf.GGMLQuantizationType[stored]
    again = gguf.quants.dequantize(gguf.quants.quantize(wanted.numpy(), kind), kind)
    assert torch.equal(found, torch.from_numpy(again))


def test_digits_are_cut_as_the_files_scheme_says(trained: Path, tmp_path: Path) -> None:
    def pieces(scheme: str) -> list[str]:
        write_gguf(trained, tmp_path / f"{scheme}.gguf", tokenizer__ggml__pre=scheme)
        tokenizer = open_source(str(tmp_path / f"{scheme}.gguf")).tokenizer
        assert tokenizer is not None
        return tokenizer.object.tokenize(" 1984")

    assert len(pieces("smollm")) == 5
    assert len(pieces("gpt-2")) < 5


def test_llama3_scaling_is_recovered_from_its_factors(trained: Path, tmp_path: Path) -> None:
    wanted = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    factors = llama3_factors(50000.0, 16, wanted).astype(np.float32)
    assert factors[0] == 1.0
    assert factors[-1] == 32.0
    write_gguf(trained, tmp_path / "scaled.gguf", tensors={"rope_freqs.weight": factors})
    source = open_source(str(tmp_path / "scaled.gguf"))
    assert source.architecture.rope is not None
    assert source.architecture.rope.scaling == {"rope_type": "llama3", **wanted}
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](source.config, "cpu")
    plain = 50000.0 ** (-np.arange(8) / 8)
    assert np.allclose(frequencies.numpy(), plain / factors, rtol=1e-5)

    write_gguf(trained, tmp_path / "odd.gguf", tensors={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(UnsupportedError, match="frequency factors"):
        open_source(str(tmp_path / "odd.gguf"))


def test_stated_scaling(trained: Path, tmp_path: Path) -> None:
    write_gguf(
        trained, tmp_path / "linear.gguf", **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    )
    rope = open_source(str(tmp_path / "linear.gguf")).architecture.rope
    assert rope is not None
    assert rope.scaling == {"rope_type": "linear", "factor": 4.0}
    write_gguf(trained, tmp_path / "odd.gguf", **{"llama.rope.scaling.type": "spiral"})
    with pytest.raises(UnsupportedError, match="spiral"):
        open_source(str(tmp_path / "odd.gguf"))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"architecture": "bert"}, UnsupportedError, "'bert'"),
        ({"llama.block_count": None}, InputError, "num_hidden_layers"),
        ({"llama.block_count": 5}, InputError, "is missing"),
        ({"llama.attention.head_count": 0}, InputError, "num_attention_heads"),
        ({"llama.attention.sliding_window": 64}, UnsupportedError, "sliding"),
    ],
)
def test_headers_that_do_not_serve(trained: Path, tmp_path: Path, changes: dict, error: type, said: str) -> None:
    write_gguf(trained, tmp_path / "bad.gguf", **changes)
    with pytest.raises(error) as caught:
        open_source(str(tmp_path / "bad.gguf"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"tokenizer.ggml.pre": "unheard-of"}, UnsupportedError, "unheard-of"),
        ({"tokenizer.ggml.model": "rwkv"}, UnsupportedError, "rwkv"),
        ({"tokenizer.ggml.eos_token_id": 99999}, InputError, "eos_token"),
    ],
)
def test_tokenizers_that_do_not_serve(trained: Path, tmp_path: Path, changes: dict, error: type, said: str) -> None:
    write_gguf(trained, tmp_path / "bad.gguf", **changes)
    with pytest.raises(error) as caught:
        _ = open_source(str(tmp_path / "bad.gguf")).tokenizer_facts
    assert said in str(caught.value)


def test_a_file_cut_short_names_both_sizes(gguf_file: Path, tmp_path: Path) -> None:
    data = gguf_file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-100])
    with pytest.raises(InputError, match="cut short"):
        open_source(str(tmp_path / "cut.gguf"))
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04" + data[4:])
    with pytest.raises(InputError, match="not a GGUF"):
        open_source(str(tmp_path / "other.gguf"))
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="not a GGUF"):
        open_source(str(tmp_path / "empty.gguf"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_header_ends_in_an_error_of_ours(
    gguf_file: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(gguf_file.read_bytes())
    # Names, sizes and offsets stand in the first part and, as tensor table, just before the weights.
    place = data.draw(st.integers(4, 1500) | st.integers(len(content) // 40, len(content) // 20))
    content[place : place + 8] = data.draw(
        st.binary(min_size=1, max_size=8) | st.sampled_from([struct.pack("<Q", 1 << 62), b"\xff" * 8])
    )
    target = tmp_path / "damaged.gguf"
    target.write_bytes(content)
    try:
        source = open_source(str(target))
        _ = source.tokenizer_facts
        for name in source.tensors:
            _ = source.tensors[name]
    except (InputError, UnsupportedError):
        pass


@pytest.mark.slow
def test_the_built_in_model_is_cut_into_tokens_as_llama_cpp_does() -> None:
    import json

    recorded = json.loads((Path(__file__).parent.parent / "data" / "tokens" / "smollm2-llama-cpp.json").read_text())
    source = open_source("smollm2-135m")
    assert source.identity.weights_were == "Q4_1"
    assert source.tokenizer is not None
    for text, tokens in recorded["texts"].items():
        assert source.tokenizer.object(text)["input_ids"] == tokens, text
