"""Less to do at run time: dead operations, and constants that an operation before can take along."""

from __future__ import annotations

from dataclasses import replace

from edgekit_export.executorch.graph import EFFECTS, Literal, Op, Section, Value


def tidied(section: Section) -> Section:
    """The same section without operations whose result nobody uses, and with ``mean + eps`` as one."""
    return _without_dead(_with_folded_bias(section))


def _with_folded_bias(section: Section) -> Section:
    uses: dict[str, int] = {section.result.name: 2}
    made: dict[str, int] = {}
    for index, op in enumerate(section.ops):
        made[op.output.name] = index
        for item in op.inputs:
            if isinstance(item, Value):
                uses[item.name] = uses.get(item.name, 0) + 1
    ops: list[Op | None] = list(section.ops)
    for index, op in enumerate(section.ops):
        if op.kind != "Add" or len(op.inputs) != 2:
            continue
        value, constant = op.inputs
        if not (isinstance(value, Value) and isinstance(constant, Literal) and constant.shape == (1,)):
            continue
        before = made.get(value.name)
        if before is None or uses[value.name] != 1:
            continue
        product = ops[before]
        if product is None or product.kind != "FullyConnected" or len(product.inputs) != 2:
            continue
        if isinstance(product.inputs[1], Literal) and product.inputs[1].shape[0] == 1:
            ops[before] = None
            ops[index] = replace(product, inputs=(*product.inputs, constant), output=op.output)
    return Section(tuple(op for op in ops if op is not None), section.source, section.result)


def _without_dead(section: Section) -> Section:
    wanted = {section.result.name}
    kept: list[Op] = []
    for op in reversed(section.ops):
        if op.output.name in wanted or op.kind in EFFECTS:
            kept.append(op)
            wanted |= {item.name for item in op.inputs if isinstance(item, Value)}
    return Section(tuple(reversed(kept)), section.source, section.result)
