"""From a configuration to files that compute what the model computes."""

from __future__ import annotations

import itertools

import families
import msgspec
import numpy as np
import onnx
import onnx_models
import pytest
import torch
import transformers

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.recipe import load_recipe
from edgekit_export.onnx import build_template, full_logits_session, measure_energy, write_model
from edgekit_export.onnx import template as template_module
from edgekit_export.onnx.external import DataFile, region
from edgekit_export.onnx.shallow import TRACE_VOCABULARY, plan_trace

CONTEXT = 96
CHUNKS = (40, 7, 1, 1, 31)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    return lambda config, **options: build_template(config, context_length=CONTEXT, cache=folder, **options)


@pytest.mark.parametrize("name", onnx_models.CONFIGS)
def test_float_export_computes_what_the_model_computes(name, templates, tmp_path):
    config = onnx_models.CONFIGS[name]()
    model = onnx_models.make_model(config)
    template = templates(config)
    assert template.notes[-1].startswith("traced "), template.notes
    assert "every layer" not in template.notes[-1]
    # Attention rotates by itself, also a part of each head.
    assert not [node for node in template.graph.nodes if node.op_type == "RotaryEmbedding"]
    files = write_model(template, model.state_dict(), load_recipe("fp32"), tmp_path)
    ids = onnx_models.tokens(sum(CHUNKS))
    wanted = onnx_models.reference(model, ids)
    everything = onnx_models.Runner(full_logits_session(tmp_path), files.interface)
    last = onnx_models.Runner(onnx_models.load(files.model), files.interface)
    start = 0
    for count in CHUNKS:
        chunk = ids[:, start : start + count]
        logits = everything.feed(chunk)
        np.testing.assert_allclose(logits, wanted[:, start : start + count], atol=2e-3 * np.abs(wanted).max())
        final = last.feed(chunk)
        assert final.shape == (1, 1, config.vocab_size)
        np.testing.assert_allclose(final[:, 0], logits[:, -1], atol=1e-4 * np.abs(wanted).max())
        start += count
    assert files.bits_per_weight == 32
    assert files.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_more_positions_than_the_trace_has_words(tmp_path):
    """Positions are numbers in the graph, too; none is taken for the size of the vocabulary."""
    longest = TRACE_VOCABULARY + 20
    config = transformers.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=longest, vocab_size=640)
    template = build_template(config, context_length=longest, cache=tmp_path)
    model = onnx_models.make_model(config)
    files = write_model(template, model.state_dict(), load_recipe("fp32"), tmp_path)
    ids = onnx_models.tokens(longest)
    wanted = onnx_models.reference(model, ids)[:, -1:]
    logits = onnx_models.Runner(onnx_models.load(files.model), files.interface).feed(ids)
    np.testing.assert_allclose(logits, wanted, atol=2e-3 * np.abs(wanted).max())


def test_replicated_layers_equal_traced_ones(templates, monkeypatch, tmp_path):
    config = onnx_models.CONFIGS["llama, tied"]()
    config.num_hidden_layers = 4
    few = templates(config)
    monkeypatch.setattr(template_module, "plan_trace", lambda config, **_: plan_trace(config, every_layer=True))
    every = build_template(config, context_length=CONTEXT, cache=tmp_path / "other")
    kinds = [[(node.domain, node.op_type, node.attributes) for node in each.graph.nodes] for each in (few, every)]
    assert sorted(kinds[0], key=str) == sorted(kinds[1], key=str)
    model = onnx_models.make_model(config)
    answers = []
    for name, each in (("few", few), ("every", every)):
        out = tmp_path / name
        out.mkdir()
        files = write_model(each, model.state_dict(), load_recipe("fp32"), out)
        answers.append(onnx_models.Runner(onnx_models.load(files.model), files.interface).feed(onnx_models.tokens(30)))
    np.testing.assert_array_equal(*answers)


def test_the_trace_is_short_and_shows_every_neighbourhood():
    config = onnx_models.CONFIGS["smollm3"]()
    config.num_hidden_layers = 12
    config.no_rope_layers = [1, 1, 1, 0] * 3
    config.layer_types = ["full_attention"] * 12
    plan = plan_trace(config)
    assert plan.kinds == [0, 0, 0, 1] * 3
    traced = [plan.kinds[layer] for layer in plan.layers]
    assert len(traced) < 12
    assert set(itertools.pairwise(plan.kinds[1:])) <= set(itertools.pairwise(traced[1:]))
    assert (traced[0], traced[-1]) == (plan.kinds[0], plan.kinds[-1])


# Limits are shares of the logits' spread; unrelated logits would be at 1.4. Random weights amplify rounding
# far more than trained ones do: what recipes do to a real model is the gate's to say.
@pytest.mark.parametrize(
    ("recipe", "limit", "bits"),
    [
        ("fp16", 2e-3, (16, 16.5)),
        ("w8", 0.15, (8.5, 10)),
        ("w4", 0.8, (5, 9)),
        ("w4-b128", 0.9, (5, 9)),
        ("w4-mixed", 0.8, (5, 10)),
        ("w8a8", 0.3, (8, 11)),
    ],
)
def test_recipes_stay_near_the_source(recipe, limit, bits, templates, tmp_path):
    config = onnx_models.CONFIGS["llama, tied"]()
    model = onnx_models.make_model(config)
    ids = onnx_models.tokens(48)
    energy = measure_energy(model, ids[0].tolist())
    files = write_model(templates(config), model.state_dict(), load_recipe(recipe), tmp_path, energy=energy)
    wanted = onnx_models.reference(model, ids)
    logits = onnx_models.Runner(full_logits_session(tmp_path), files.interface).feed(ids)
    assert np.sqrt(np.mean((logits - wanted) ** 2)) < limit * wanted.std()
    assert bits[0] <= files.bits_per_weight < bits[1]
    assert bool(files.kept) == (recipe in ("w4-mixed", "w8a8"))


def test_a_tied_matrix_is_stored_once(templates, tmp_path):
    config = onnx_models.CONFIGS["llama, tied"]()
    files = write_model(templates(config), onnx_models.make_model(config).state_dict(), load_recipe("w8"), tmp_path)
    model = onnx.load(files.model, load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    (lookup,) = [node for node in model.graph.node if node.op_type == "GatherBlockQuantized"]
    head = [node for node in model.graph.node if node.op_type == "MatMulNBits"][-1]
    assert region(tensors[lookup.input[0]]) == region(tensors[head.input[1]])
    assert region(tensors[lookup.input[2]]) == region(tensors[head.input[2]])


def test_the_same_input_gives_the_same_bytes(templates, tmp_path):
    config = onnx_models.CONFIGS["qwen2"]()
    state = onnx_models.make_model(config).state_dict()
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = write_model(templates(config), state, load_recipe("w4"), tmp_path / name)
        written.append((files.model.read_bytes(), files.weights.read_bytes()))
    assert written[0] == written[1]


def test_a_template_is_traced_once(templates, monkeypatch):
    config = onnx_models.CONFIGS["llama, tied"]()
    first = templates(config)
    monkeypatch.setattr(template_module, "_build", lambda *_: pytest.fail("traced again"))
    again = templates(config)
    assert again.graph.nodes == first.graph.nodes
    assert again.key == first.key


def test_a_damaged_template_is_made_again(tmp_path, monkeypatch):
    (tmp_path / "key.zip").write_bytes(b"PK broken")
    assert template_module._load(tmp_path / "key.zip") is None


def test_what_cannot_be_served_is_refused_by_name(templates):
    dynamic = transformers.LlamaConfig(**onnx_models.SMALL, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    with pytest.raises(UnsupportedError, match="dynamic RoPE scaling"):
        templates(dynamic)
    with pytest.raises(UnsupportedError, match="context of 96 tokens"):
        templates(transformers.LlamaConfig(**{**onnx_models.SMALL, "max_position_embeddings": 64}))
    long = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    with pytest.raises(UnsupportedError, match="beyond 64 tokens"):
        templates(
            transformers.Phi3Config(
                **onnx_models.SMALL,
                original_max_position_embeddings=64,
                rope_parameters={**long, "original_max_position_embeddings": 64},
            )
        )
    for family, said in (("lfm2", "another state than keys and values"), ("minicpm3", "keys of width 32")):
        with pytest.raises(UnsupportedError, match=said):
            templates(families.family(family).config())


def test_a_state_that_does_not_fit_leaves_nothing_behind(templates, tmp_path):
    config = onnx_models.CONFIGS["llama, tied"]()
    state = dict(onnx_models.make_model(config).state_dict())
    broken = dict(state)
    del broken["model.layers.3.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"model\.layers\.3\.mlp\.up_proj\.weight"):
        write_model(templates(config), broken, load_recipe("w4"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    broken = dict(state)
    broken["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
    with pytest.raises(InputError, match="not finite"):
        write_model(templates(config), broken, load_recipe("w4"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_weights_file_leaves_nothing_behind(tmp_path):
    def write() -> None:
        with DataFile(tmp_path / "weights") as data:
            data.add("a", np.zeros(8, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_sensitive_layers_are_found_by_what_rounding_changes(templates, tmp_path):
    config = onnx_models.CONFIGS["llama, tied"]()
    model = onnx_models.make_model(config)
    mixed = {"select": "sensitivity", "bits": 8, "block": 32, "share": 0.3}
    recipe = msgspec.structs.replace(load_recipe("w4-mixed"), mixed=mixed)
    # One column of outliers, which the other weights of its blocks pay for.
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[:, ::32] *= 40
    files = write_model(templates(config), model.state_dict(), recipe, tmp_path)
    assert "model.layers.2.mlp.down_proj.weight.q8" in files.kept
    assert 0 < len(files.kept) < 10
    with pytest.raises(InputError, match="share"):
        write_model(templates(config), model.state_dict(), msgspec.structs.replace(recipe, mixed={"bits": 8}), tmp_path)
