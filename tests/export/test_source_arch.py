from __future__ import annotations

import pytest
import torch

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.model_profile import load_model_profile, model_names
from edgekit_export.sources import open_source


def test_weights_follow_from_name_and_seed_alone() -> None:
    one, more = open_source("arch:smollm2-135m:layers=1"), open_source("arch:smollm2-135m:layers=2")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one.tensors[name], open_source("arch:smollm2-135m:layers=1").tensors[name])
    assert torch.equal(one.tensors[name], more.tensors[name])
    assert not torch.equal(one.tensors[name], open_source("arch:smollm2-135m:layers=1:seed=5").tensors[name])
    assert not torch.equal(more.tensors[name], more.tensors[name.replace("0", "1")])
    assert torch.equal(one.tensors["model.norm.weight"], torch.ones(576))
    spread = load_model_profile("smollm2-135m").config["initializer_range"]
    assert float(one.tensors[name].std()) == pytest.approx(spread, rel=0.01)


def test_identity_tells_seed_and_layers_apart() -> None:
    specs = ["arch:smollm2-135m", "arch:smollm2-135m:layers=3", "arch:smollm2-135m:seed=1"]
    sources = [open_source(spec) for spec in specs]
    assert len({source.identity.sha256 for source in sources}) == 3
    assert len({source.name for source in sources}) == 3
    assert sources[1].architecture.layers == 3
    assert sources[0].architecture.parameters == 134_515_008
    assert sources[0].tokenizer_facts is None


def test_a_shape_of_ones_own() -> None:
    spec = "arch:smollm2-135m:layers=2:hidden=128:heads=4:kv_heads=4:head_dim=32:ffn=512:vocab=1000:context=256:tied=0"
    source = open_source(spec)
    shape = source.architecture
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 128, 4, 4, 32)
    assert (shape.ffn, shape.vocab, shape.max_position, shape.tied_embedding) == (512, 1000, 256, False)
    assert shape.parameters == 2 * (4 * 128 * 128 + 3 * 128 * 512 + 2 * 128) + 128 + 2 * 1000 * 128
    assert source.name == "smollm2-135m-random-l2-h128-a4-k4-d32-f512-v1000-c256-tied0"
    assert open_source(spec.replace("tied=0", "tied=1")).architecture.parameters == shape.parameters - 1000 * 128
    with pytest.raises(UnsupportedError, match="kv_heads cannot be chosen"):
        open_source("arch:gpt2:kv_heads=2")


#: No class in transformers; no attention; no longest position.
REFUSED = {"openelm", "mamba", "recurrent_gemma"}


@pytest.mark.parametrize("name", model_names())
def test_every_profile_is_an_architecture_transformers_builds(name: str) -> None:
    profile = load_model_profile(name)
    if profile.config["model_type"] in REFUSED:
        with pytest.raises(UnsupportedError):
            open_source(f"arch:{name}:layers=2")
        return
    source = open_source(f"arch:{name}:layers=2")
    assert source.architecture.layers == 2
    stated = [profile.config[key] for key in ("hidden_size", "n_embd", "d_model") if key in profile.config]
    assert [source.architecture.hidden] == stated
    if "rope_theta" in profile.config:
        assert source.architecture.rope is not None
        assert source.architecture.rope.theta == profile.config["rope_theta"]
        assert (source.architecture.rope.scaling.get("rope_type") == "llama3") == ("rope_scaling" in profile.config)


@pytest.mark.parametrize(
    "spec",
    [
        "arch:nosuch",
        "arch:",
        "arch:../smollm2-135m",
        "arch:smollm2-135m:layers=0",
        "arch:smollm2-135m:layers=1:layers=2",
        "arch:smollm2-135m:layers=-1",
        "arch:smollm2-135m:width=2",
        "arch:smollm2-135m:layers=99999",
        "arch:smollm2-135m:tied=2",
        "arch:smollm2-135m:ffn=0",
        "arch:smollm2-135m:",
        "arch:smollm2-135m::seed=1",
    ],
)
def test_what_is_no_architecture(spec: str) -> None:
    if spec.endswith("135m:"):
        assert open_source(spec).architecture.layers == 30
        return
    with pytest.raises(InputError) as caught:
        open_source(spec)
    assert caught.value.hint


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="head_dim`=25") as caught:
        open_source("arch:tinyllama-1.1b:layers=1:hidden=100:heads=4:kv_heads=2")
    assert caught.value.hint == "choose other sizes"
