"""A small bundle with every part in place; its numbers are made up, its files are real."""

from __future__ import annotations

from pathlib import Path

from edgekit.schema import codec
from edgekit.schema.bundle import (
    MANIFEST,
    Architecture,
    AuditedOperator,
    Bundle,
    ExportCost,
    Gate,
    GateCheck,
    GateFigures,
    Golden,
    OnnxInterface,
    Recipe,
    Rope,
    Runtime,
    Source,
    Tokenizer,
)
from edgekit.schema.integrity import describe_file


def write_bundle(directory: Path) -> Bundle:
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"graph" * 10)
    (directory / "model.onnx.data").write_bytes(bytes(range(256)) * 20)
    (directory / "tokenizer" / "tokenizer.json").write_text('{"model": {}}')
    shape = [1, 1, 16, 4]
    bundle = Bundle(
        schema_version=Bundle.SCHEMA_VERSION,
        model="tiny",
        source=Source(kind="arch", name="arch:tiny", sha256="0" * 64, seed=0),
        architecture=Architecture(
            family="llama",
            layers=1,
            hidden=8,
            heads=2,
            kv_heads=1,
            head_dim=4,
            ffn=16,
            vocab=32,
            max_position=16,
            parameters=1000,
            tied_embedding=True,
            activation="silu",
            norm_eps=1e-5,
            rope=Rope(theta=10000.0, rotary_dim=4),
        ),
        recipe=Recipe(name="fp32", settings={}, bits_per_weight=32.0),
        runtime=Runtime(
            name="onnxruntime",
            backend="cpu",
            version="1.32.0",
            opsets={"": 21},
            operators=[AuditedOperator(domain="", op_type="MatMul", count=7)],
            context_length=16,
            kv_cache_bytes=2 * 64 * 4,
            onnx=OnnxInterface(
                tokens="input_ids",
                seqlens_k="seqlens_k",
                total_sequence_length="total_sequence_length",
                past=["past.0.key", "past.0.value"],
                present=["present.0.key", "present.0.value"],
                cache_shape=[shape, shape],
                cache_dtype="float32",
                logits="logits",
                logits_dtype="float32",
            ),
        ),
        tokenizer=Tokenizer(bos_id=1, eos_ids=[2], pad_id=None, adds_bos=False, has_chat_template=False),
        files=[
            describe_file(directory, "model.onnx", "model"),
            describe_file(directory, "model.onnx.data", "weights"),
            describe_file(directory, "tokenizer/tokenizer.json", "tokenizer"),
        ],
        gate=Gate(
            passed=True,
            allowed_unfaithful=False,
            reference="eager float32",
            text="random tokens",
            text_sha256="1" * 64,
            figures=GateFigures(
                tokens=8,
                kl_mean=0.0,
                kl_p99=0.0,
                kl_max=0.0,
                same_top=1.0,
                perplexity=20.0,
                perplexity_reference=20.0,
                greedy_prefix=2,
                greedy_tokens=2,
            ),
            checks=[GateCheck(name="kl_mean", passed=True, found="0", limit="at most 0.001")],
        ),
        golden=Golden(
            prompt=[1, 2, 3],
            tokens=[4, 5],
            logit_ids=[0, 4, 5],
            logits=[[0.1, 0.2, 0.0], [0.0, 0.1, 0.3]],
            tolerance=0.01,
            margins=[0.1, 0.2],
        ),
        exporter="test",
        cost=ExportCost(wall_s=1.0, peak_rss_bytes=1, stages_s={"load": 1.0}),
        versions={"edgekit": "0"},
        created_at="2026-01-01T00:00:00Z",
    )
    write_manifest(directory, bundle)
    return bundle


def write_manifest(directory: Path, bundle: Bundle) -> None:
    (directory / MANIFEST).write_bytes(codec.encode(bundle))
