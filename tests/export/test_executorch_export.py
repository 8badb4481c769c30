"""Exports for ExecuTorch: faithful to the source, each matrix stored once, and damage named by the gate."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

import families
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen3Config

from edgekit.errors import InputError, UnfaithfulError, UnsupportedError
from edgekit.resources import device_scripts_dir
from edgekit.schema.integrity import check_bundle
from edgekit.schema.recipe import load_recipe, recipe_names, with_kv_cache
from edgekit_export.executorch import decoder
from edgekit_export.executorch.decoder import build_decoder
from edgekit_export.executorch.formats import formats_of
from edgekit_export.executorch.keys import TABLE
from edgekit_export.executorch.lower_attention import MAX_HEAD
from edgekit_export.executorch.masks import read_mask
from edgekit_export.executorch.pack import pack, unpack
from edgekit_export.executorch.stored import StoredProgram
from edgekit_export.executorch.write import write_program
from edgekit_export.gate.executorch_runner import ExecutorchRunner
from edgekit_export.gate.rope import check_looked_up
from edgekit_export.pipeline import export_bundles, export_onnx, verify
from edgekit_export.sources.tensors import TensorStore

#: The real widths; of the vocabulary, which would be three quarters of the weights, a part.
SOURCE = "arch:smollm2-135m:layers=2:vocab=4096"
CONTEXT = 64
#: What is refused, and which recipe to take instead.
REFUSED = {"w4": "w4a8", "w4-b128": "w4a8-b128", "w4-mixed": "w4a8"}
RECIPES = ["fp32", "fp16", "w8", "w8a8", "w4a8", "w4a8-b64", "w4a8-e4"]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
FAMILIES = {
    "llama, tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama, untied, heads wider than hidden / heads": LlamaConfig(**SMALL, head_dim=24),
    "llama, one kv head": LlamaConfig(**{**SMALL, "num_key_value_heads": 1}),
    "llama, scaled rope": LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2, biases": Qwen2Config(**SMALL),
    "qwen3, norms of q and k": Qwen3Config(**SMALL, head_dim=16),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("executorch")
    outcomes = export_bundles(SOURCE, RECIPES, ["executorch"], out_dir=out, context_length=CONTEXT)
    assert [(outcome.recipe, outcome.runtime, outcome.refusal) for outcome in outcomes] == [
        (recipe, "executorch", None) for recipe in RECIPES
    ]
    return out


def folder(bundles: Path, recipe: str) -> Path:
    return bundles / f"smollm2-135m-random-l2-v4096-executorch-{recipe}"


def run_against_eager(config: object, path: Path, recipe: str = "fp32", steps: int = 4) -> float:
    """Largest difference from eager over a prompt, single steps, and a second chunk that continues."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.ndim > 1 else 1.0))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    store = TensorStore({name: tuple(tensor.shape) for name, tensor in weights.items()}, weights.__getitem__)
    write_program(build_decoder(config, context=CONTEXT), store, load_recipe(recipe), path)
    tokens = torch.randint(0, config.vocab_size, (1, 30)).tolist()[0]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    runner = ExecutorchRunner(path)
    chunks = [tokens[:17], *([token] for token in tokens[17 : 17 + steps]), tokens[17 + steps :]]
    end, worst = 0, 0.0
    for chunk in chunks:
        end += len(chunk)
        worst = max(worst, float(np.abs(runner.forward(chunk)[-1] - wanted[end - 1]).max()))
    return worst / float(np.abs(wanted).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_families_compute_what_eager_computes(name: str, tmp_path: Path) -> None:
    assert run_against_eager(FAMILIES[name], tmp_path / "model.pte") < 1e-4


@pytest.mark.parametrize("name", ["gemma2", "bloom", "lfm2", "gpt2", "cohere", "stablelm-parallel"])
def test_features_that_attention_or_layout_must_know(name: str, tmp_path: Path) -> None:
    """Soft caps with windows, ALiBi, short convolutions, learned positions, interleaved and partial rotation."""
    assert run_against_eager(families.family(name).config(), tmp_path / "model.pte") < 1e-4


@pytest.mark.parametrize("name", ["smollm2", "gemma2", "bloom", "lfm2", "gpt2", "cohere"])
def test_a_prompt_in_several_passes_is_the_same_prompt(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks, positions and the last inputs of convolutions go on where the pass before ended."""
    monkeypatch.setattr(decoder, "PASS_TOKENS", 5)
    path = tmp_path / "model.pte"
    assert run_against_eager(families.family(name).config(), path) < 1e-4
    assert ExecutorchRunner(path)._most_at_once() == 5


def test_a_longer_context_takes_cache_and_nothing_else(tmp_path: Path) -> None:
    def activations(context: int) -> int:
        config = FAMILIES["qwen2, biases"]
        weights = {
            name: torch.zeros(tuple(p.shape)) for name, p in AutoModelForCausalLM.from_config(config).named_parameters()
        }
        store = TensorStore({name: tuple(tensor.shape) for name, tensor in weights.items()}, weights.__getitem__)
        made = write_program(build_decoder(config, context=context), store, load_recipe("fp32"), tmp_path / "model.pte")
        return made.planned_bytes - made.kv_cache_bytes

    assert activations(decoder.PASS_TOKENS // 2) < activations(decoder.PASS_TOKENS)
    assert activations(4 * decoder.PASS_TOKENS) == activations(decoder.PASS_TOKENS)


def test_an_int8_cache_is_close_to_a_float_one_and_refused_where_attention_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    assert 1e-5 < run_against_eager(FAMILIES["llama, untied, heads wider than hidden / heads"], path, "fp32-kv8") < 0.2
    for name, reason in (("gemma2", "soft-capped"), ("bloom", "ALiBi")):
        with pytest.raises(UnsupportedError, match=reason):
            run_against_eager(families.family(name).config(), path, "fp32-kv8")
    with pytest.raises(UnsupportedError, match="KV cache"):
        export_onnx(SOURCE, ["fp32-kv8"], out_dir=tmp_path)


def test_an_int8_cache_is_a_recipe_of_its_own() -> None:
    plain, eight = load_recipe("w4a8"), load_recipe("w4a8-kv8")
    assert (eight.name, eight.kv_cache, plain.kv_cache) == ("w4a8-kv8", "int8", "float32")
    assert eight.linear == plain.linear
    assert eight.thresholds.kl_mean > plain.thresholds.kl_mean
    assert with_kv_cache(["w4a8", "w8-kv8"], "int8") == ["w4a8-kv8", "w8-kv8"]
    with pytest.raises(InputError):
        load_recipe("w4a8-kv8-kv8")


def test_tables_are_as_long_as_the_context_whatever_a_pass_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "PASS_TOKENS", 5)
    config, path = Qwen3Config(**SMALL, head_dim=16), tmp_path / "model.pte"
    assert run_against_eager(config, path) < 1e-4
    stored = StoredProgram(path, {}, {})
    tables = stored.rotary()
    assert {len(table) for table in tables} == {CONTEXT}
    assert check_looked_up(tables, config).passed
    stored._named[f"{TABLE}rotary.unused"] = stored._named["model.norm.weight"]
    with pytest.raises(InputError, match="does not use it"):
        stored.rotary()


def test_windows_are_masks_made_once_and_only_where_the_cache_outgrows_them() -> None:
    decoder = build_decoder(MistralConfig(**SMALL, sliding_window=8), context=CONTEXT)
    masks = {op.inputs[3].name for op in decoder.ops if op.kind == "attend"}
    assert masks == {"input.mask.8"}
    assert sum(op.output.name in masks for op in decoder.ops) == 1
    whole = build_decoder(MistralConfig(**SMALL, sliding_window=CONTEXT), context=CONTEXT)
    assert {len(op.inputs) for op in whole.ops if op.kind == "attend"} == {3}
    mixed = build_decoder(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=2), context=CONTEXT
    )
    assert [len(op.inputs) for op in mixed.ops if op.kind == "attend"] == [3, 3, 4, 4]


def test_wrong_rotary_tables_fail_and_are_named(tmp_path: Path) -> None:
    """Read back from the program: of another base, damaged, or missing."""
    config = Qwen3Config(**SMALL, head_dim=16)
    path = tmp_path / "model.pte"
    assert run_against_eager(config, path) < 1e-4
    tables = StoredProgram(path, {}, {}).rotary()
    assert check_looked_up(tables, config).passed
    other = Qwen3Config(**SMALL, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    wrong = check_looked_up(tables, other)
    assert not wrong.passed
    assert "wrong RoPE base" in (wrong.cause or "")
    assert not check_looked_up([], config).passed
    tables[0] = tables[0] * 1.01
    assert not check_looked_up(tables, config).passed


def test_what_cannot_be_done_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"aten\.softmax"):
        build_decoder(MixtralConfig(**SMALL, num_local_experts=4), context=CONTEXT)
    with pytest.raises(UnsupportedError, match="64 learned positions"):
        build_decoder(families.family("gpt2").config(n_positions=64), context=CONTEXT + 1)
    kernels = device_scripts_dir() / "probe" / "executorch"
    for source in ("kernels.cpp", "attention_block.h"):
        assert f"kMaxDim = {MAX_HEAD};" in (kernels / source).read_text(), "the probe's kernels have room for as many"
    build_decoder(LlamaConfig(**SMALL, head_dim=MAX_HEAD), context=CONTEXT)
    with pytest.raises(UnsupportedError, match="heads of 514 numbers, and the probe's attention takes 512"):
        build_decoder(LlamaConfig(**SMALL, head_dim=MAX_HEAD + 2), context=CONTEXT)
    with pytest.raises(UnsupportedError, match="neither causal nor a sliding window"):
        read_mask(lambda batch, head, query, key: (key <= query) & (key // 16 == query // 16), 64)


def test_every_recipe_is_gated_and_whole(bundles: Path) -> None:
    for recipe in RECIPES:
        bundle = check_bundle(folder(bundles, recipe))
        assert bundle.gate.passed
        assert {"operators", "weights", "shipped graph"} <= {check.name for check in bundle.gate.checks}
        assert bundle.runtime.planned_bytes is not None
        assert bundle.runtime.planned_bytes > bundle.runtime.kv_cache_bytes == 2 * 2 * 4 * CONTEXT * 3 * 64
        assert [entry.path for entry in bundle.files if entry.role == "model"] == ["model.pte"]
    exact = check_bundle(folder(bundles, "fp32")).gate.figures
    assert exact.kl_max < 1e-9
    assert exact.greedy_prefix == exact.greedy_tokens


def test_bits_are_those_of_the_file_and_a_tied_matrix_is_stored_once(bundles: Path) -> None:
    found = {recipe: check_bundle(folder(bundles, recipe)) for recipe in RECIPES}
    parameters = found["fp32"].architecture.parameters
    for recipe, limit in {"fp32": 32.0, "w8": 8.2, "w8a8": 8.2, "w4a8": 7.8}.items():
        bits = found[recipe].recipe.bits_per_weight
        assert bits <= limit, recipe
        # Program, delegates and rotary tables come on top of the weights.
        assert found[recipe].size_bytes < bits * parameters / 8 + 300_000
    assert found["w4a8-b64"].recipe.bits_per_weight < found["w4a8"].recipe.bits_per_weight


def test_delegates_are_as_few_as_attention_allows(bundles: Path) -> None:
    calls = {f"{op.domain}::{op.op_type}": op.count for op in check_bundle(folder(bundles, "w4a8")).runtime.operators}
    assert calls["executorch::XnnpackBackend"] == 2 + 1 + 1
    assert calls["llama::custom_sdpa.out"] == 2
    # One rounding serves all products that read a value: q/k/v, o, gate/up, down per layer, and the head.
    assert calls["xnnpack::Convert"] == 4 * 2 + 1


def test_verify_judges_an_executorch_bundle_again(bundles: Path) -> None:
    gate = verify(folder(bundles, "w4a8"))
    assert gate.passed
    assert gate.checks[-1].name == "golden record"


def damaged(bundles: Path, tmp_path: Path, recipe: str, key: str, damage: object) -> Path:
    """A copy of a bundle's program with one named tensor's bytes changed."""
    copy = Path(shutil.copytree(folder(bundles, recipe), tmp_path / "copy"))
    path = copy / "model.pte"
    stored = StoredProgram(path, {}, {})
    segment = stored._named[key]
    start = stored._base + segment.offset
    data = bytearray(path.read_bytes())
    data[start : start + segment.size] = damage(bytes(data[start : start + segment.size]))  # type: ignore[operator]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("key", "damage", "cause"),
    [
        (
            "model.layers.1.mlp.up_proj.weight.scales",
            lambda data: np.flip(np.frombuffer(data, np.uint16).reshape(1536, -1), 0).tobytes(),
            "up_proj",
        ),
        (
            "model.layers.0.self_attn.v_proj.weight",
            lambda data: bytes(data[len(data) // 2 :] + data[: len(data) // 2]),
            "v_proj",
        ),
        (
            "model.layers.0.input_layernorm.weight",
            lambda data: (np.frombuffer(data, np.float32) * np.float32(1.01)).tobytes(),
            "input_layernorm",
        ),
    ],
)
def test_damaged_weights_are_named(bundles: Path, tmp_path: Path, key: str, damage: object, cause: str) -> None:
    from edgekit_export.gate.weights import check_weights
    from edgekit_export.sources import open_source

    source = open_source(SOURCE)
    path = damaged(bundles, tmp_path, "w4a8", key, damage)
    check = check_weights(
        StoredProgram(path, source.tensors.shapes, source.tied), source.tensors, source.tied, energy={}
    )
    assert not check.passed
    assert cause in (check.cause or "")


def test_a_program_cut_short_is_refused(bundles: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes((folder(bundles, "w4a8") / "model.pte").read_bytes()[:-1000])
    with pytest.raises(InputError, match="not a whole"):
        StoredProgram(path, {}, {})


def test_a_changed_file_fails_verify(bundles: Path, tmp_path: Path) -> None:
    damaged(bundles, tmp_path, "w4a8", "model.norm.weight", lambda data: bytes(len(data)))
    with pytest.raises(InputError, match=r"model\.pte"):
        verify(tmp_path / "copy")


def test_recipes_say_what_executorch_makes_of_them() -> None:
    for name in [*RECIPES, "w4a8-b128"]:
        formats_of(load_recipe(name))
    assert {name for name in recipe_names() if "refused" in load_recipe(name).runtimes["executorch"]} == set(REFUSED)
    for name, instead in REFUSED.items():
        with pytest.raises(UnsupportedError, match=f"recipe {name} on executorch: .*{instead}"):
            formats_of(load_recipe(name))


def test_every_recipe_says_what_each_runtime_makes_of_it() -> None:
    """Served, or refused with a reason that names a recipe the runtime serves."""
    for recipe in map(load_recipe, recipe_names()):
        assert set(recipe.runtimes) == {"onnxruntime", "executorch"}, recipe.name
        for runtime, options in recipe.runtimes.items():
            if reason := options.get("refused"):
                named = [other for other in recipe_names() if f" {other}" in f" {reason}".replace(",", " ")]
                assert any("refused" not in load_recipe(other).runtimes[runtime] for other in named), recipe.name


def test_blocks_of_128_pass_the_gate_where_the_widths_allow_them(tmp_path: Path) -> None:
    source = "arch:qwen2.5-0.5b:layers=1:vocab=512"
    [found] = export_bundles(source, ["w4a8-b128"], ["executorch"], out_dir=tmp_path, context_length=CONTEXT)
    assert found.bundle is not None
    assert found.bundle.gate.passed
    assert "same rounding" in {check.name for check in found.bundle.gate.checks}
    # A scale of two bytes for each block; embedding and head, in 8 bits, are 3% of the weights.
    assert 4 + 16 / 128 < found.bundle.recipe.bits_per_weight < 4 + 16 / 64


def test_blocks_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match="columns in blocks of 128 for executorch: they do not divide"
    ) as refused:
        export_bundles(SOURCE, ["w4a8-b128"], ["executorch"], out_dir=tmp_path, context_length=CONTEXT)
    assert refused.value.exit_code == 4
    assert "smaller blocks" in (refused.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["w4a8", "w8a8"])
def test_rounding_stays_within_half_a_step(storage: str) -> None:
    format = formats_of(load_recipe(storage)).linear
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 128, generator=generator)
    weight[3, :32] = 0
    packed = pack(weight, format)
    assert packed.scales is not None
    assert bool((packed.scales.float() > 0).all())
    error = (unpack(packed) - weight).abs()
    if storage == "w8a8":
        assert bool((error <= weight.abs().amax(1, keepdim=True) / 127 * 0.5 + 1e-6).all())
    else:
        blocks = weight.reshape(40, -1, 32).abs().amax(-1)
        # Clipping may cost an extreme value up to a fifth of its size more than rounding does.
        assert bool((error.reshape(40, -1, 32).amax(-1) <= blocks * 0.25 + 1e-6).all())
        best = error.square().mean()
        plain = (
            (
                (
                    weight.reshape(-1, 32) / (scale := weight.reshape(-1, 32).abs().amax(1, keepdim=True) / 7 + 1e-12)
                ).round()
                * scale
                - weight.reshape(-1, 32)
            )
            .square()
            .mean()
        )
        assert best < plain


def test_both_runtimes_from_one_call(trained: Path, tmp_path: Path) -> None:
    outcomes = export_bundles(str(trained), ["fp32", "w4"], ["onnxruntime", "executorch"], out_dir=tmp_path)
    assert [(item.runtime, item.recipe, item.refusal is None) for item in outcomes] == [
        ("onnxruntime", "fp32", True),
        ("onnxruntime", "w4", True),
        ("executorch", "fp32", True),
        ("executorch", "w4", False),
    ]
    again = export_onnx(str(trained), ["fp32"], out_dir=tmp_path)
    assert again[0].reused


def test_a_recipe_that_is_too_coarse_is_not_kept(tmp_path: Path) -> None:
    strict = load_recipe("w4a8")
    path = tmp_path / "strict.toml"
    text = (Path(__file__).parents[2] / "profiles" / "quantization" / "w4a8.toml").read_text()
    path.write_text(text.replace(f"kl_mean = {strict.thresholds.kl_mean}", "kl_mean = 0.00001"))
    assert msgspec.structs.asdict(load_recipe(str(path)).thresholds)["kl_mean"] == 0.00001
    with pytest.raises(UnfaithfulError):
        export_bundles(SOURCE, [str(path)], ["executorch"], out_dir=tmp_path / "out", context_length=CONTEXT)
    assert not any((tmp_path / "out").glob("*"))
