from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.integrity import sha256_file
from edgekit_export.sources import open_source
from edgekit_export.sources.tokenizer import load_tokenizer


def edit(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    for key, value in changes.items():
        values[key] = value
        if value is None:
            del values[key]
    path.write_text(json.dumps(values))


def test_facts_of_the_source(trained: Path) -> None:
    source = open_source(str(trained))
    assert source.name == "tiny"
    assert source.identity.kind == "directory"
    assert source.identity.sha256 == sha256_file(trained / "model.safetensors")
    assert source.identity.license == "apache-2.0"
    facts = source.architecture
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim, facts.tied_embedding) == (2, 4, 2, 16, True)
    assert facts.rope is not None
    assert (facts.rope.theta, facts.rope.rotary_dim, facts.rope.scaling) == (50000.0, 16, {})
    assert facts.parameters == sum(value.numel() for value in source.tensors.values())
    assert "lm_head.weight" not in source.tensors
    assert source.tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_the_reference_is_the_published_model(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(40)[None]
    with torch.no_grad():
        ours = open_source(str(trained)).load_model()
        theirs = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32, attn_implementation="eager").eval()
        assert ours.dtype == torch.float32
        assert not ours.training
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_half_precision_weights_become_float32_exactly(model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: value.to(torch.bfloat16) for name, value in load_file(model_dir / "model.safetensors").items()}
    save_file(weights, model_dir / "model.safetensors")
    source = open_source(str(model_dir))
    for name, value in source.tensors.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].float())


def test_sharded_weights(model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = open_source(str(model_dir))
    weights = load_file(model_dir / "model.safetensors")
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, model_dir / file)
    (model_dir / "model.safetensors").unlink()
    index = {name: file for file, part in shards.items() for name in part}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    source = open_source(str(model_dir))
    assert all(torch.equal(source.tensors[name], whole.tensors[name]) for name in whole.tensors)
    (model_dir / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-2\.safetensors"):
        open_source(str(model_dir))


def test_the_tokenizer_survives_saving(trained: Path, tmp_path: Path) -> None:
    source = open_source(str(trained))
    written = source.save_side_files(tmp_path)
    assert {name for names in written.values() for name in names} == {path.name for path in tmp_path.iterdir()}
    assert source.tokenizer is not None
    saved, own = load_tokenizer(tmp_path), source.tokenizer.object
    for text in ("The harbour, 1784\n\n  twice", "<|start|>user", "日本 😀"):
        assert saved(text)["input_ids"] == own(text)["input_ids"]
    assert saved.chat_template == own.chat_template
    facts = source.tokenizer_facts
    assert facts is not None
    assert (facts.bos_id, facts.eos_ids, facts.pad_id, facts.adds_bos, facts.has_chat_template) == (
        1,
        [2],
        0,
        False,
        True,
    )


def test_end_tokens_are_gathered_from_every_place(model_dir: Path) -> None:
    edit(model_dir / "generation_config.json", eos_token_id=[7, 2])
    edit(model_dir / "config.json", eos_token_id=5)
    facts = open_source(str(model_dir)).tokenizer_facts
    assert facts is not None
    assert facts.eos_ids == [7, 2, 5]


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda d: (d / "config.json").unlink(), InputError, r"no config\.json"),
        (lambda d: (d / "config.json").write_text("{"), InputError, "cannot be read"),
        (lambda d: (d / "config.json").write_text("[1]"), InputError, "no JSON object"),
        (lambda d: edit(d / "config.json", model_type=None), InputError, "names no architecture"),
        (lambda d: edit(d / "config.json", model_type="nosuch"), UnsupportedError, "nosuch"),
        (lambda d: edit(d / "config.json", hidden_size="wide"), InputError, "configuration"),
        (lambda d: edit(d / "config.json", hidden_size=48), InputError, "not those the configuration calls for"),
        (lambda d: edit(d / "config.json", num_hidden_layers=3), InputError, r"model\.layers\.2\..*is missing"),
        (lambda d: edit(d / "config.json", quantization_config={"quant_method": "gptq"}), UnsupportedError, "gptq"),
        (
            lambda d: edit(d / "config.json", model_type="bert", architectures=["BertForMaskedLM"]),
            UnsupportedError,
            "does not generate text",
        ),
        (
            lambda d: edit(d / "config.json", model_type="bert", architectures=None),
            UnsupportedError,
            "does not generate text",
        ),
        (
            lambda d: edit(d / "config.json", model_type="t5", is_encoder_decoder=True),
            UnsupportedError,
            "encoder-decoder",
        ),
        (lambda d: (d / "model.safetensors").unlink(), InputError, "no weights"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), UnsupportedError, "safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), InputError, "cut short"),
        (cut_weights, InputError, "cut short"),
        (drop_a_weight, InputError, r"model\.norm\.weight is missing"),
    ],
)
def test_bad_directories(model_dir: Path, damage: Callable[[Path], object], error: type, said: str) -> None:
    import re

    damage(model_dir)
    with pytest.raises(error) as caught:
        open_source(str(model_dir))
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_damaged_tokenizer(model_dir: Path) -> None:
    (model_dir / "tokenizer.json").write_text('{"model": 3}')
    source = open_source(str(model_dir))
    with pytest.raises(InputError, match="tokenizer"):
        _ = source.tokenizer_facts


@pytest.mark.parametrize(
    "name", ["no-such-model", "./nowhere", "nowhere/", "missing.gguf", "org/missing.gguf", "", "a b", "x@y"]
)
def test_names_that_are_no_source(name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(name)
    assert caught.value.hint or "no such file" in caught.value.message


def test_a_revision_only_for_the_hub(trained: Path) -> None:
    with pytest.raises(InputError, match="revision"):
        open_source(str(trained), revision="main")
    with pytest.raises(InputError, match="twice"):
        open_source("org/name@main", revision="main")


def test_weights_that_are_not_built_in() -> None:
    with pytest.raises(InputError, match="not built in") as caught:
        open_source("qwen3-0.6b")
    assert "arch:qwen3-0.6b" in str(caught.value)
