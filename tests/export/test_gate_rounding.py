"""Programs that compute something else than their source: each must fail the gate of 4 bits, too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

import families
import torch

from edgekit.schema.bundle import GateCheck
from edgekit.schema.recipe import load_recipe
from edgekit_export.executorch.decoder import Decoder, build_decoder
from edgekit_export.executorch.graph import Literal, Op, Operand, Parameter, Value
from edgekit_export.executorch.stored import StoredProgram
from edgekit_export.executorch.write import write_program
from edgekit_export.gate.judge import judge
from edgekit_export.gate.reference import Reference, compute_reference
from edgekit_export.gate.rounded import FileWeights, rounded_rows
from edgekit_export.gate.text import gate_text
from edgekit_export.sources import ModelSource, open_source
from edgekit_export.sources.tensors import TensorStore

CONTEXT = 128


class Judge:
    """A source, what it computes, and verdicts over programs made for it."""

    def __init__(self, path: str, folder: Path) -> None:
        self.source: ModelSource = open_source(path)
        self.decoder = build_decoder(self.source.config, context=CONTEXT)
        self.reference: Reference = compute_reference(
            self.source, gate_text(self.source, CONTEXT), context_length=CONTEXT
        )
        self._folder = folder
        self.source.save_side_files(folder)

    def __call__(
        self, decoder: Decoder | None = None, *, tensors: TensorStore | None = None, recipe: str = "w4a8"
    ) -> dict[str, GateCheck]:
        profile, path = load_recipe(recipe), self._folder / "model.pte"
        write_program(
            decoder or self.decoder,
            tensors or self.source.tensors,
            profile,
            path,
            tied=self.source.tied,
            energy=self.reference.energy,
        )
        judged = judge(
            path,
            None,
            source=self.source,
            reference=self.reference,
            recipe=profile,
            tokenizer=self.source.tokenizer_facts,
            context_length=CONTEXT,
        )
        return {check.name: check for check in judged.gate.checks}


@pytest.fixture(scope="module")
def tiny(trained: Path, export_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(str(trained), tmp_path_factory.mktemp("tiny"))


def names(checks: dict[str, GateCheck]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def edited(decoder: Decoder, change: Callable[[Op], Op | list[Op]], *, layer: int = 1) -> Decoder:
    """The decoder with the operations of one layer changed; -1 is the head."""
    ops: list[Op] = []
    for op in decoder.ops:
        new = change(op) if (op.layer if op.layer is not None else -1) == layer else op
        ops += new if isinstance(new, list) else [new]
    assert ops != list(decoder.ops)
    return dataclasses.replace(decoder, ops=tuple(ops))


def reads(op: Op, part: str) -> bool:
    return any(isinstance(item, Parameter) and part in item.name for item in op.inputs)


def with_input(op: Op, index: int, item: Operand) -> Op:
    return dataclasses.replace(op, inputs=(*op.inputs[:index], item, *op.inputs[index + 1 :]))


def renamed(op: Op, old: str, new: str) -> Op:
    """Reading another weight of the same shape."""
    inputs = tuple(
        dataclasses.replace(item, name=item.name.replace(old, new)) if isinstance(item, Parameter) else item
        for item in op.inputs
    )
    return dataclasses.replace(op, inputs=inputs)


def gate_and_up_exchanged(op: Op) -> Op:
    if reads(op, "gate_proj"):
        return renamed(op, "gate_proj", "up_proj")
    return renamed(op, "up_proj", "gate_proj")


def weight_of_the_layer_before(op: Op) -> Op:
    return renamed(op, "layers.1.mlp.down_proj", "layers.0.mlp.down_proj")


def key_and_value_exchanged(op: Op) -> Op:
    return dataclasses.replace(op, inputs=(op.inputs[0], op.inputs[2], op.inputs[1])) if op.kind == "attend" else op


def product_before(op: Op, value: Operand, matrix: torch.Tensor) -> tuple[Op, Value]:
    """``value`` times a constant, computed before ``op``."""
    assert isinstance(value, Value)
    made = Value(f"{value.name}.changed", value.shape)
    return Op("FullyConnected", (value, Literal(matrix)), made, module=op.module, layer=op.layer), made


def heads_exchanged(op: Op) -> Op | list[Op]:
    """The first two heads' results in each other's place."""
    if not reads(op, "o_proj"):
        return op
    order = torch.arange(64).reshape(4, 16)[[1, 0, 2, 3]].reshape(-1)
    before, made = product_before(op, op.inputs[0], torch.eye(64)[order])
    return [before, with_input(op, 0, made)]


def keys_one_position_late(op: Op) -> Op | list[Op]:
    """Keys rotated by one position more than queries."""
    if op.kind != "attend":
        return op
    angles = 50000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    cos, sin = angles.cos().diag(), angles.sin().diag()
    turn = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)]).float()
    before, made = product_before(op, op.inputs[1], turn)
    return [before, with_input(op, 1, made)]


def residual_forgotten(op: Op) -> Op:
    """The MLP's result alone instead of its sum with what came before it."""
    zero = Literal(torch.zeros(1))
    return dataclasses.replace(op, inputs=(op.inputs[1], zero)) if op.kind == "Add" and op.module == "other" else op


def eps(value: float) -> Callable[[Op], Op]:
    def change(op: Op) -> Op:
        if op.kind == "FullyConnected" and len(op.inputs) == 3 and op.module == "norm":
            return with_input(op, 2, Literal(torch.tensor([value])))
        return op

    return change


def norm_without_weight(op: Op) -> Op:
    return with_input(op, 0, Literal(torch.ones(64))) if reads(op, "post_attention_layernorm") else op


def attention_scaled_otherwise(op: Op) -> Op:
    if op.kind != "attend":
        return op
    return dataclasses.replace(op, attributes={**op.attributes, "scale": 1 / math.sqrt(20)})


def other_activation(op: Op) -> Op:
    return dataclasses.replace(op, kind="Tanh") if op.kind == "Sigmoid" else op


FAULTS: dict[str, Callable[[Op], Op | list[Op]]] = {
    "gate and up exchanged": gate_and_up_exchanged,
    "another layer's weight": weight_of_the_layer_before,
    "key and value exchanged": key_and_value_exchanged,
    "two heads exchanged": heads_exchanged,
    "keys one position late": keys_one_position_late,
    "no residual": residual_forgotten,
    "eps 1e-2 for 1e-5": eps(1e-2),
    "a norm without its weight": norm_without_weight,
    "attention scaled otherwise": attention_scaled_otherwise,
    "another activation": other_activation,
}


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w8", "w8a8", "w4a8", "w4a8-b64", "w4a8-e4"])
def test_right_programs_pass_and_the_bound_is_that_of_the_kernels(tiny: Judge, recipe: str) -> None:
    """Whatever a recipe loses against float32, its program is as near to its rounded model as the last bits allow."""
    checks = tiny(recipe=recipe)
    assert not names(checks), checks
    near, lost = (
        float(checks[name].found.removeprefix("kl mean ").split(",")[0]) for name in ("same rounding", "kl mean")
    )
    limit = float(checks["same rounding"].limit.removeprefix("at most ").split()[0])
    assert near <= limit
    if recipe.startswith("w4"):
        assert limit < 0.1 * lost


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_4_bit_gate(tiny: Judge, fault: str) -> None:
    checks = tiny(edited(tiny.decoder, FAULTS[fault]))
    assert "same rounding" in names(checks)
    assert "does not compute what its own weights and rounding call for" in (checks["same rounding"].cause or "")


def test_faults_that_the_quality_limits_let_pass_are_no_loss_of_the_recipe(tiny: Judge) -> None:
    """What the recipe may lose is told apart from what the program gets wrong."""
    checks = tiny(edited(tiny.decoder, heads_exchanged))
    assert names(checks) == {"same rounding"}


def test_another_rotary_base_fails(tiny: Judge) -> None:
    config = type(tiny.source.config)(**{**tiny.source.config.to_dict(), "rope_parameters": families._ROPE})
    assert {"rope tables", "same rounding"} <= names(tiny(build_decoder(config, context=CONTEXT)))


def test_a_wrong_scale_of_one_group_fails(tiny: Judge) -> None:
    """Damage of a single block: the weights' own check, since the rounded model holds the same damage."""
    name = "model.layers.1.mlp.up_proj.weight"

    def read(key: str) -> torch.Tensor:
        tensor = tiny.source.tensors[key]
        if key == name:
            tensor = tensor.clone()
            tensor[17, 32:64] *= 1.5
        return tensor

    checks = tiny(tensors=TensorStore(dict(tiny.source.tensors.shapes), read))
    assert "weights" in names(checks)
    assert f"{name}: 1 of" in (checks["weights"].cause or "")


def test_a_head_tied_to_something_else_fails(tiny: Judge) -> None:
    """The head's rows one token late: as a table of another order would be."""
    roll = torch.eye(448)[torch.arange(448).roll(1)]

    def change(op: Op) -> Op | list[Op]:
        if op.module != "LM head" or op.kind != "FullyConnected":
            return op
        made = Value("logits.right", op.output.shape)
        return [
            dataclasses.replace(op, output=made),
            Op("FullyConnected", (made, Literal(roll)), op.output, module=op.module),
        ]

    assert "same rounding" in names(tiny(edited(tiny.decoder, change, layer=-1)))


def _family_faults() -> list[object]:
    found = []
    for family, fault in families.faults():
        if fault.model is None and family.name != "minicpm3":
            label = f"{family.name}, {fault.feature} {family.faults.index(fault)}"
            found.append(pytest.param(family.name, family.faults.index(fault), id=label))
    return found


@pytest.fixture(scope="module")
def judge_of(tmp_path_factory: pytest.TempPathFactory, export_cache: Path) -> Callable[[str], Judge]:
    made: dict[str, Judge] = {}

    def get(name: str) -> Judge:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = Judge(str(families.family(name).save(folder)), folder)
            assert not names(made[name]())
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), _family_faults())
def test_every_familys_faults_fail_the_4_bit_gate(name: str, index: int, judge_of: Callable[[str], Judge]) -> None:
    """Even those that are too subtle to show beside what 4 bits lose."""
    right, family = judge_of(name), families.family(name)
    fault = family.faults[index]
    decoder = build_decoder(family.config(**fault.settings), context=CONTEXT) if fault.settings else None
    tensors = None
    if fault.state is not None:
        state = dict(families._state(name))
        fault.state(state)
        held = right.source.tensors
        tensors = TensorStore(dict(held.shapes), lambda key: state[key] if key in state else held[key])
    failed = names(right(decoder, tensors=tensors))
    assert failed & {"same rounding", "weights"}, fault


def test_a_learned_position_off_by_one_fails(judge_of: Callable[[str], Judge]) -> None:
    right = judge_of("gpt2")
    tables = {
        key: dataclasses.replace(table, rows=table.rows + 1) if table.parameter else table
        for key, table in right.decoder.tables.items()
    }
    assert "same rounding" in names(right(dataclasses.replace(right.decoder, tables=tables)))


def test_biases_are_added_as_they_are_whatever_the_weights_are_rounded_to(judge_of: Callable[[str], Judge]) -> None:
    """XNNPACK's product of floats with 8-bit weights scales its bias, too; the program must not use that."""
    for recipe in ("w8", "fp16"):
        assert not names(judge_of("gpt2")(recipe=recipe))


def test_rows_are_rounded_to_whole_steps_that_hold_zero() -> None:
    values = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) + torch.arange(50)[:, None] / 10
    values[7] = 0
    rounded = rounded_rows(values)
    step = (values.amax(1).clamp(min=0) - values.amin(1).clamp(max=0)) / 255
    assert bool(((rounded - values).abs().amax(1) <= step * 1.01 + 1e-6).all())
    assert bool((rounded[7] == 0).all())
    assert max(len(row.unique()) for row in rounded) <= 256
    assert bool((rounded_rows(rounded) - rounded).abs().max() < 1e-5)


def test_the_rounded_model_holds_what_the_file_holds(tiny: Judge) -> None:
    tiny(recipe="w4a8")
    source = tiny.source
    stored = StoredProgram(tiny._folder / "model.pte", source.tensors.shapes, source.tied)
    matrices = {matrix.parts[0]: stored.values(matrix) for matrix in stored.matrices()}
    name, ends = "model.layers.0.self_attn.q_proj.weight", ("lm_head.weight", "model.embed_tokens.weight")
    found = dict(FileWeights(source, stored).read([name, *ends]))
    assert torch.equal(found[name], matrices[name])
    assert torch.equal(found[ends[0]], found[ends[1]])
    assert not torch.equal(found[ends[0]], source.tensors["model.embed_tokens.weight"])
