"""Decoder families as tiny models with random weights, in which every feature matters.

A family is a configuration of transformers' own class and the *faults* an exporter could make in it: the
same weights computed without the window, with the wrong part rotated, without the cap, and so on. Weights
are large enough that each fault moves the logits far beyond what any recipe's gate lets pass.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from transformers import AutoModelForCausalLM

from edgekit_export.sources.source import quiet_transformers

#: The gate reads windows of this length: longer than every sliding window here.
CONTEXT = 256
#: Sliding windows of families that have one; shorter than the prompt the gate's step check feeds at once.
WINDOW = 24
VOCABULARY = 320
SEED = 7

_SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_TIED = {**_SIZE, "tie_word_embeddings": True}
_FULL_HEADS = {key: value for key, value in _SIZE.items() if key != "num_key_value_heads"}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GPT2: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": CONTEXT,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_SLIDING, _FULL = "sliding_attention", "full_attention"

State = dict[str, torch.Tensor]


class Fault(msgspec.Struct, frozen=True):
    """One thing an exporter could get wrong: settings that say otherwise, or weights or a model to change."""

    feature: str
    settings: dict[str, Any] = {}
    #: Too little for a 4-bit gate to notice; float32's does.
    subtle: bool = False
    state: Callable[[State], None] | None = None
    model: Callable[[Any], None] | None = None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder family.

    Attributes:
        name: of its tiny model.
        models: published models of the family, for readers of the support page.
        kind: class of the configuration.
        settings: its arguments.
        faults: what could be computed wrongly, by feature.
        spread: standard deviation of the logits.
        gains: standard deviation of products with matrices whose name contains the key, for inputs of 1.
    """

    name: str
    models: str
    kind: str
    settings: dict[str, Any]
    faults: tuple[Fault, ...]
    spread: float = 2.5
    gains: dict[str, float] = {}

    @property
    def features(self) -> list[str]:
        """What the faults show to matter."""
        return list(dict.fromkeys(fault.feature for fault in self.faults))

    def config(self, **changes: Any) -> Any:
        """The configuration, with ``changes``."""
        return getattr(transformers, self.kind)(**copy.deepcopy({**self.settings, **changes}))

    def model(self) -> Any:
        """The model in float32, eager, with its weights."""
        model = _build(self.config())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_weight(name, parameter.shape, self.gains, getattr(model.config, "hidden_size", 64)))
            _spread_logits(model, self.spread)
        return model

    def faulty(self, fault: Fault) -> Any:
        """The same weights computed with ``fault``."""
        model = _build(self.config(**fault.settings))
        state = dict(_state(self.name))
        if fault.state is not None:
            fault.state(state)
        model.load_state_dict(state, strict=False)
        if fault.model is not None:
            fault.model(model)
        return model

    def save(self, directory: Path) -> Path:
        """Write the model as a source directory (configuration and safetensors, no tokenizer)."""
        target = directory / self.name
        with quiet_transformers():
            self.model().save_pretrained(target)
        (target / "generation_config.json").unlink(missing_ok=True)
        return target


@cache
def _state(name: str) -> State:
    return {key: value.clone() for key, value in family(name).model().state_dict().items()}


def _build(config: Any) -> Any:
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


#: Sharp enough that it matters where attention looks, not so sharp that rounding decides it.
_GAINS = {
    **dict.fromkeys(("q_proj", "k_proj"), 1.15),
    **dict.fromkeys(("query_key_value", "qkv_proj", "c_attn", "q_b_proj", "kv_b_proj"), 1.3),
    **dict.fromkeys(("v_proj", "o_proj", "out_proj", "attention.dense", "self_attn.dense", "attn.c_proj"), 1.6),
    "lm_head": 1.0,
    "": 0.8,
}


def _weight(name: str, shape: torch.Size, gains: dict[str, float], hidden: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(
        SEED * 1_000_003 + sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31
    )
    chosen = [gain for part, gain in gains.items() if part in name]
    if len(shape) < 2:
        values = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            return values * (chosen[0] if chosen else 0.5)
        # Norms: far enough from one that a forgotten one shows.
        return (0.6 + 0.8 * values.abs()) * (chosen[0] if chosen else 1.0)
    # GPT-2's Conv1D stores [in, out]; everything else [out, in, ...].
    turned = ".c_" in name
    values = _near_a_grid(shape[::-1] if turned else shape, generator)
    values = values.T if turned else values
    if any(part in name for part in ("embed", "wte", "wpe")):
        return values * (chosen[0] if chosen else 1.0)
    gain = chosen[0] if chosen else next(gain for part, gain in _GAINS.items() if part in name)
    fan_in = shape[0] if turned else math.prod(shape[1:])
    return values * gain / math.sqrt(fan_in)


def _near_a_grid(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Weights of variance 1 near the points of a 4-bit grid: rounding costs little, so that faults stand out."""
    values = torch.randint(-7, 8, shape, generator=generator)
    if shape[-1] % 32 == 0:
        # Each block reaches the grid's end on one side, from which its step follows.
        blocks = values.reshape(-1, 32)
        place = torch.randint(32, (len(blocks), 1), generator=generator)
        blocks.scatter_(1, place, 16 * torch.randint(2, (len(blocks), 1), generator=generator) - 8)
    near = values + 0.1 * torch.randn(shape, generator=generator)
    return near / near.std()


def tokens(count: int = CONTEXT) -> torch.Tensor:
    """Random tokens ``[1, count]``."""
    return torch.randint(3, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(SEED))


def logits(model: Any) -> torch.Tensor:
    """Logits ``[CONTEXT, VOCABULARY]`` over :func:`tokens`."""
    with torch.no_grad():
        found: torch.Tensor = model(tokens(), use_cache=False).logits[0]
    return found


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Mean KL divergence of ``found`` from ``wanted``, nats."""
    p, q = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _spread_logits(model: Any, spread: float) -> None:
    """Scale what comes last before the head so that the logits have this standard deviation."""
    scaled = _last_norm(model)
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    for _ in range(6):
        found = float(logits(model).std())
        factor = spread / found
        if abs(factor - 1) < 0.02:
            return
        factor = float(f"{factor:.3g}")
        if scaled:
            for parameter in scaled:
                parameter.mul_(factor)
        elif not tied:
            head.weight.mul_(factor)
        else:
            raise ValueError(f"{type(model).__name__}: nothing to scale the logits with")


def _last_norm(model: Any) -> list[Any]:
    """Scale and bias of the norm after the last layer; empty where it has none."""
    module = [
        module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and name.count(".") <= 2
        and not any(character.isdigit() for character in name)
        and "word_embedding" not in name
    ][-1]
    if "Gemma" in type(module).__name__:
        return [_PlusOne(module.weight)]
    return list(module.parameters())


class _PlusOne:
    """A norm's weight that the model reads with one added to it."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self._weight = weight

    def mul_(self, factor: float) -> None:
        self._weight.add_(1).mul_(factor).sub_(1)


# -- faults ------------------------------------------------------------------------------------------------


def _zero(part: str, value: float = 0.0) -> Callable[[State], None]:
    """Every vector whose name contains ``part`` forgotten."""

    def change(state: State) -> None:
        found = [name for name in state if part in name]
        assert found, part
        for name in found:
            state[name] = torch.full_like(state[name], value)

    return change


def _swap_tensor(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    def apply(state: State) -> None:
        found = [name for name in state if part in name]
        assert found, part
        for name in found:
            state[name] = change(state[name])

    return apply


def _biases(part: str = "bias") -> Fault:
    return Fault("biases", state=_zero(part))


def _window(**settings: Any) -> Fault:
    return Fault("sliding window", settings or {"sliding_window": None})


def _window_off_by(count: int) -> Fault:
    return Fault("sliding window", {"sliding_window": WINDOW + count}, subtle=True)


def _rope(**changes: Any) -> Fault:
    return Fault("rotary base", {"rope_parameters": {**_ROPE, **changes}})


def _theta(value: float = 500.0, **base: Any) -> Fault:
    return Fault("rotary base", {"rope_parameters": {**_ROPE, **base, "rope_theta": value}})


def _partial(factor: float, value: float) -> Fault:
    return Fault("partial rotary", {"rope_parameters": {**_ROPE, "partial_rotary_factor": value}})


_GROUPS = Fault("grouped heads", state=_swap_tensor("k_proj.weight", lambda weight: weight.roll(16, 0)))


def _no_embedding_scale(model: Any) -> None:
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda module, inputs, output: output / math.sqrt(model.config.hidden_size))


def _sequential(mlp: str, norm: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A parallel residual computed as a sequential one: the MLP sees the attention's result."""

    def change(model: Any) -> None:
        for layer in _layers(model):
            _make_sequential(layer, mlp, norm(layer))

    return change


def _make_sequential(layer: Any, mlp: str, norm: Any) -> None:
    seen: dict[str, torch.Tensor] = {}
    layer.register_forward_pre_hook(lambda module, inputs: seen.update(hidden=inputs[0]))
    attention = getattr(layer, "self_attn", None) or layer.self_attention
    attention.register_forward_hook(lambda module, inputs, output: seen.update(attended=output[0]))
    getattr(layer, mlp).register_forward_pre_hook(
        lambda module, inputs: (norm(seen["hidden"] + seen["attended"]), *inputs[1:])
    )


def _layers(model: Any) -> Any:
    return next(
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers
    )


def _slopes(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    """ALiBi with other slopes."""

    def apply(model: Any) -> None:
        import transformers.models.bloom.modeling_bloom as bloom

        forward, slopes = model.forward, bloom._get_alibi_slopes

        def faulty(*arguments: Any, **options: Any) -> Any:
            bloom._get_alibi_slopes = lambda heads, device: change(slopes(heads, device))
            try:
                return forward(*arguments, **options)
            finally:
                bloom._get_alibi_slopes = slopes

        model.forward = faulty

    return apply


FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        models="Llama 3.2, TinyLlama, Danube 3, Falcon 3",
        kind="LlamaConfig",
        settings={
            **_SIZE,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        faults=(Fault("rotary scaling", {"rope_parameters": _ROPE}), _GROUPS, _theta(200.0)),
    ),
    Family(
        name="smollm2",
        models="SmolLM2, SmolLM",
        kind="LlamaConfig",
        settings={**_TIED, "rope_parameters": _ROPE},
        faults=(_theta(), _GROUPS),
    ),
    Family(
        name="falcon3",
        models="Falcon 3",
        kind="LlamaConfig",
        settings={**_SIZE, "head_dim": 32, "rope_parameters": _ROPE},
        faults=(_theta(), _GROUPS),
    ),
    Family(
        name="smollm3",
        models="SmolLM3",
        kind="SmolLM3Config",
        settings={
            **_TIED,
            "no_rope_layers": [1, 0, 1, 0],
            "layer_types": [_FULL] * 4,
            "rope_parameters": _ROPE,
        },
        faults=(Fault("layers without positions", {"no_rope_layers": [1, 1, 1, 1]}), _theta(), _GROUPS),
    ),
    Family(
        name="qwen2",
        models="Qwen 2, Qwen 2.5",
        kind="Qwen2Config",
        settings={**_TIED, "rope_parameters": _ROPE},
        faults=(_biases("_proj.bias"), _theta(), _GROUPS),
        gains={"proj.bias": 0.6, "q_proj.weight": 1.4, "k_proj.weight": 1.4},
    ),
    Family(
        name="qwen2-window",
        models="Qwen 2 with sliding windows in its upper layers",
        kind="Qwen2Config",
        settings={
            **_TIED,
            "rope_parameters": _ROPE,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
        },
        faults=(
            _window(use_sliding_window=False),
            Fault("which layers have the window", {"max_window_layers": 0}),
            _biases("_proj.bias"),
        ),
        gains={
            "proj.bias": 0.6,
            "q_proj.weight": 1.4,
            "k_proj.weight": 1.4,
            "v_proj.weight": 2.4,
            "o_proj.weight": 2.4,
        },
    ),
    Family(
        name="qwen3",
        models="Qwen 3",
        kind="Qwen3Config",
        settings={**_TIED, "head_dim": 32, "rope_parameters": _ROPE},
        faults=(Fault("norms of query and key", state=_zero("k_norm", 1.0)), _theta(), _GROUPS),
        gains={"q_norm": 1.1, "k_norm": 1.1},
    ),
    Family(
        name="gemma",
        models="Gemma, CodeGemma",
        kind="GemmaConfig",
        settings={**_TIED, "head_dim": 32, "rope_parameters": _ROPE},
        faults=(Fault("embedding scale", model=_no_embedding_scale), _theta(), _GROUPS),
        gains={"embed": 0.125, "norm": 0.3},
    ),
    Family(
        name="gemma2",
        models="Gemma 2",
        kind="Gemma2Config",
        settings={
            **_TIED,
            "head_dim": 32,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": [_SLIDING, _FULL] * 2,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 4.0,
            "rope_parameters": _ROPE,
        },
        faults=(
            _window(layer_types=[_FULL] * 4),
            Fault("which layers have the window", {"layer_types": [_FULL, _SLIDING] * 2}),
            Fault("soft-capped attention", {"attn_logit_softcapping": None}),
            Fault("soft-capped logits", {"final_logit_softcapping": None}),
            Fault("attention scale", {"query_pre_attn_scalar": 4096}),
            Fault("embedding scale", model=_no_embedding_scale),
        ),
        gains={"embed": 0.16, "q_proj": 1.3, "k_proj": 1.3, "norm": 0.4},
        spread=2.8,
    ),
    Family(
        name="gemma3",
        models="Gemma 3 (text)",
        kind="Gemma3TextConfig",
        settings={
            **_TIED,
            "head_dim": 32,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": [_SLIDING, _SLIDING, _FULL, _SLIDING],
            "rope_parameters": {
                _SLIDING: {"rope_type": "default", "rope_theta": 100.0},
                _FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
            },
        },
        faults=(
            _window(sliding_window=CONTEXT),
            Fault("which layers have the window", {"layer_types": [_SLIDING, _FULL, _SLIDING, _SLIDING]}),
            Fault(
                "rotary base by layer",
                {
                    "rope_parameters": {
                        _SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
                        _FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
                    }
                },
            ),
            Fault("norms of query and key", state=_zero("k_norm", 1.0)),
            Fault("embedding scale", model=_no_embedding_scale),
        ),
        gains={"embed": 0.125, "q_norm": 0.1, "k_norm": 0.1, "norm": 0.4},
    ),
    Family(
        name="phi",
        models="Phi-1, Phi-1.5, Phi-2",
        kind="PhiConfig",
        settings={**_FULL_HEADS, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}},
        faults=(
            _partial(0.5, 1.0),
            Fault("parallel residual", model=_sequential("mlp", lambda layer: layer.input_layernorm)),
            _biases("dense.bias"),
            Fault("bias of the head", state=_zero("lm_head.bias")),
        ),
        gains={
            "q_proj.weight": 1.6,
            "k_proj.weight": 1.6,
            "v_proj.weight": 2.0,
            "dense.weight": 2.0,
            "fc2.weight": 1.6,
            "fc1.weight": 1.6,
            "self_attn.dense.bias": 3.0,
            "lm_head.bias": 2.5,
        },
        spread=4.0,
    ),
    Family(
        name="phi3",
        models="Phi-3 mini (4k)",
        kind="Phi3Config",
        settings={**_SIZE, "sliding_window": WINDOW, "rope_parameters": _ROPE},
        faults=(_window(), _window_off_by(1), _theta()),
        gains={"qkv_proj": 1.1},
    ),
    Family(
        name="phi4",
        models="Phi-4, Phi-4-mini without its long context",
        kind="Phi3Config",
        settings={
            **_TIED,
            "original_max_position_embeddings": CONTEXT,
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.75},
        },
        faults=(_partial(0.75, 1.0), _theta(partial_rotary_factor=0.75)),
        gains={"qkv_proj": 1.1},
    ),
    Family(
        name="phi3-longrope",
        models="Phi-3.5-mini, Phi-4-mini",
        kind="Phi3Config",
        settings={
            **_TIED,
            "max_position_embeddings": 4 * CONTEXT,
            "original_max_position_embeddings": CONTEXT,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0 + 0.2 * i for i in range(8)],
                "long_factor": [1.5 + 2.0 * i for i in range(8)],
                "original_max_position_embeddings": CONTEXT,
            },
        },
        faults=(Fault("rotary scaling", {"rope_parameters": _ROPE}),),
        gains={"qkv_proj": 1.1},
    ),
    Family(
        name="gpt-neox",
        models="Pythia, Dolly v2, StableLM alpha",
        kind="GPTNeoXConfig",
        settings={**_FULL_HEADS, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.25}},
        faults=(
            Fault("parallel residual", {"use_parallel_residual": False}),
            _partial(0.25, 1.0),
            _biases("dense.bias"),
        ),
        gains={
            "query_key_value.weight": 1.9,
            "attention.dense.weight": 2.0,
            "attention.dense.bias": 3.0,
            "dense_4h_to_h.weight": 1.8,
            "dense_h_to_4h.weight": 1.6,
        },
        spread=3.0,
    ),
    Family(
        name="redpajama",
        models="RedPajama-INCITE (GPT-NeoX without a parallel residual)",
        kind="GPTNeoXConfig",
        settings={
            **_FULL_HEADS,
            "use_parallel_residual": False,
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0},
        },
        faults=(Fault("sequential residual", {"use_parallel_residual": True}), _partial(1.0, 0.5)),
        gains={
            "query_key_value.weight": 1.9,
            "attention.dense.weight": 2.0,
            "dense_4h_to_h.weight": 1.8,
            "dense_h_to_4h.weight": 1.6,
        },
    ),
    Family(
        name="bloom",
        models="BLOOM, BLOOMZ",
        kind="BloomConfig",
        settings={
            "hidden_size": 64,
            "n_layer": 4,
            "n_head": 4,
            "vocab_size": VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
        },
        faults=(
            Fault("ALiBi", model=_slopes(lambda slopes: slopes * 0)),
            Fault("ALiBi", model=_slopes(lambda slopes: slopes.sqrt())),
            _biases("self_attention.dense.bias"),
        ),
        gains={"query_key_value.weight": 1.9, "dense.bias": 1.2},
        spread=3.2,
    ),
    Family(
        name="opt",
        models="OPT, Galactica",
        kind="OPTConfig",
        settings={
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
        },
        faults=(
            Fault("learned positions", state=_swap_tensor("embed_positions", lambda table: table.roll(2, 0))),
            _biases("out_proj.bias"),
        ),
        gains={
            "q_proj.weight": 1.6,
            "k_proj.weight": 1.6,
            "out_proj.bias": 3.0,
            "fc1.weight": 1.6,
            "fc2.weight": 1.8,
            "embed_positions": 1.2,
        },
        spread=3.2,
    ),
    Family(
        name="stablelm",
        models="StableLM 2 1.6B, StableLM 3B, Stable Code 3B",
        kind="StableLmConfig",
        settings={
            **_SIZE,
            "num_key_value_heads": 4,
            "use_qkv_bias": True,
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.25},
        },
        faults=(_partial(0.25, 1.0), _biases("_proj.bias")),
        gains={
            "q_proj.weight": 1.6,
            "k_proj.weight": 1.6,
            "v_proj.weight": 2.0,
            "o_proj.weight": 2.0,
            "proj.bias": 0.8,
        },
    ),
    Family(
        name="stablelm-parallel",
        models="StableLM 2 12B",
        kind="StableLmConfig",
        settings={
            **_SIZE,
            "use_parallel_residual": True,
            "qk_layernorm": True,
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.25},
        },
        faults=(
            _partial(0.25, 1.0),
            Fault("norms of query and key", state=_zero("k_layernorm", 0.0)),
            Fault("parallel residual", model=_sequential("mlp", lambda layer: layer.input_layernorm)),
        ),
        gains={"q_layernorm": 1.4, "k_layernorm": 1.4, "v_proj.weight": 2.0, "o_proj.weight": 2.4, "mlp": 1.6},
    ),
    Family(
        name="olmo",
        models="OLMo",
        kind="OlmoConfig",
        settings={**_SIZE, "clip_qkv": 2.0, "rope_parameters": _ROPE},
        faults=(Fault("clipped query, key, value", {"clip_qkv": None}), _theta(), _GROUPS),
        gains={"q_proj.weight": 2.4, "k_proj.weight": 2.4, "v_proj.weight": 2.0, "o_proj.weight": 2.4},
    ),
    Family(
        name="olmo2",
        models="OLMo 2",
        kind="Olmo2Config",
        settings={**_SIZE, "rope_parameters": _ROPE},
        faults=(Fault("norms of query and key", state=_zero("k_norm", 0.3)), _theta(), _GROUPS),
        gains={"q_norm": 1.05, "k_norm": 1.05},
    ),
    Family(
        name="granite",
        models="Granite 3",
        kind="GraniteConfig",
        settings={
            **_TIED,
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.1,
            "logits_scaling": 4.0,
            "rope_parameters": _ROPE,
        },
        faults=(
            Fault("embedding scale", {"embedding_multiplier": 1.0}),
            Fault("residual scale", {"residual_multiplier": 1.0}),
            Fault("attention scale", {"attention_multiplier": 0.25}),
            Fault("logit scale", {"logits_scaling": 1.0}),
            _theta(),
        ),
        gains={"embed": 0.17, "q_proj": 2.2, "k_proj": 2.2},
    ),
    Family(
        name="minicpm3",
        models="MiniCPM 3",
        kind="MiniCPM3Config",
        settings={
            **_TIED,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
            "scale_emb": 6.0,
            "scale_depth": 1.4,
            "dim_model_base": 32,
            "rope_parameters": _ROPE,
        },
        faults=(
            Fault("embedding scale", {"scale_emb": 1.0}),
            Fault("residual scale", {"scale_depth": 4.0}),
            Fault("logit scale", {"dim_model_base": 8}),
            _theta(),
        ),
        gains={"embed": 0.17, "q_b_proj": 1.6, "kv_b_proj": 1.6},
    ),
    Family(
        name="danube",
        models="H2O-Danube, Mistral 7B v0.1",
        kind="MistralConfig",
        settings={**_SIZE, "sliding_window": WINDOW, "rope_parameters": _ROPE},
        faults=(_window(), _window_off_by(1), _theta(), _GROUPS),
    ),
    Family(
        name="mistral",
        models="Mistral, Ministral without a window",
        kind="MistralConfig",
        settings={**_SIZE, "sliding_window": None, "rope_parameters": _ROPE},
        faults=(Fault("no sliding window", {"sliding_window": WINDOW}), _theta(), _GROUPS),
    ),
    Family(
        name="lfm2",
        models="LFM2, LFM2.5",
        kind="Lfm2Config",
        settings={
            **_TIED,
            "conv_L_cache": 3,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", _FULL, "conv", _FULL],
            "rope_parameters": _ROPE,
        },
        faults=(
            Fault("short convolution", state=_swap_tensor("conv.conv.weight", lambda kernel: kernel.flip(-1))),
            Fault("norms of query and key", state=_zero("k_layernorm", 0.3)),
            _theta(),
        ),
        gains={"q_layernorm": 1.1, "k_layernorm": 1.1},
    ),
    Family(
        name="cohere",
        models="Command-R, Aya",
        kind="CohereConfig",
        settings={**_TIED, "logit_scale": 0.25, "rope_parameters": _ROPE},
        faults=(
            Fault("parallel residual", model=_sequential("mlp", lambda layer: layer.input_layernorm)),
            Fault("logit scale", {"logit_scale": 1.0}),
            _theta(),
            _GROUPS,
        ),
    ),
    Family(
        name="gpt2",
        models="GPT-2, DistilGPT-2, Cerebras-GPT, LaMini-GPT",
        kind="GPT2Config",
        settings=_GPT2,
        faults=(
            Fault("learned positions", state=_swap_tensor("wpe", lambda table: table.roll(1, 0))),
            _biases("c_proj.bias"),
            Fault("attention scale", {"scale_attn_weights": False}),
        ),
        gains={"c_attn.weight": 1.6, "wpe": 1.2},
        spread=3.0,
    ),
)


def family(name: str) -> Family:
    """The family called ``name``."""
    return next(one for one in FAMILIES if one.name == name)


def faults() -> Iterator[tuple[Family, Fault]]:
    """Every fault of every family."""
    for one in FAMILIES:
        for fault in one.faults:
            yield one, fault
