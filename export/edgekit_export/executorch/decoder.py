"""The whole decoder as one list of operations, from few traced layers."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig

from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.bundle import EXECUTORCH_PASS_TOKENS as PASS_TOKENS
from edgekit_export.executorch.graph import Op, Section, Shape, Table, Value, renamed, structure
from edgekit_export.executorch.lower import Lowering
from edgekit_export.executorch.masks import POSITIONS, mask_ops, positions_table
from edgekit_export.executorch.tidy import tidied
from edgekit_export.executorch.trace import trace
from edgekit_export.onnx.shallow import TRACE_VOCABULARY, plan_trace


@dataclass(frozen=True)
class Decoder:
    """A decoder without weights, good for any recipe.

    Attributes:
        ops: all operations, in order.
        logits: the result, ``[1, 1, vocabulary]``.
        tables: what is looked up by position, by the name of the input that holds the rows.
        context: positions of the cache.
    """

    ops: tuple[Op, ...]
    logits: Value
    tables: dict[str, Table]
    context: int

    @property
    def pass_tokens(self) -> int:
        """Tokens that one pass takes at most."""
        return min(self.context, PASS_TOKENS)

    def table_shape(self, name: str) -> Shape:
        """Shape of a table's looked-up rows."""
        return next(
            item.shape for op in self.ops for item in op.inputs if isinstance(item, Value) and item.name == name
        )


def build_decoder(config: PretrainedConfig, *, context: int, progress: Progress = silent) -> Decoder:
    """Trace what is needed of an architecture and lay out all of its layers.

    Raises:
        UnsupportedError: the architecture does something this path cannot do; the message names it.
    """
    plan = plan_trace(config)
    progress(ProgressEvent("trace", detail=f"{len(plan.layers)} of {len(plan.kinds)} layers for ExecuTorch"))
    vocabulary = (TRACE_VOCABULARY, config.vocab_size) if config.vocab_size > TRACE_VOCABULARY else (-1, -1)
    lowered = Lowering(trace(plan, context), prefix=plan.prefix, vocabulary=vocabulary)
    examples: dict[int, tuple[int, Section]] = {}
    for index, layer in enumerate(plan.layers):
        section = tidied(lowered.layers[index])
        kind = plan.kinds[layer]
        known = examples.setdefault(kind, (index, section))
        if structure(section, plan.prefix, index) != structure(known[1], plan.prefix, known[0]):
            raise UnsupportedError(
                f"export to ExecuTorch: layers {plan.layers[known[0]]} and {layer} look alike but compute differently"
            )
    embed = tidied(lowered.embed)
    # Traced layers that stand for none of the model's show masks and tables that it may not have.
    ops: list[Op] = [*mask_ops(lowered.windows, context), *embed.ops]
    hidden = embed.result
    for layer, kind in enumerate(plan.kinds):
        index, example = examples[kind]
        section = renamed(example, suffix=str(layer), prefix=plan.prefix, old=index, new=layer, source=hidden)
        _refuse_strangers(section, layer)
        ops += section.ops
        hidden = section.result
    head = lowered.head
    head = tidied(renamed(head, suffix="head", prefix=plan.prefix, old=-1, new=-1, source=hidden))
    _refuse_strangers(head, len(plan.kinds))
    ops += head.ops
    tables = lowered.tables | ({POSITIONS: positions_table(context)} if lowered.windows else {})
    used = {item.name for op in ops for item in op.inputs if isinstance(item, Value)}
    return Decoder(tuple(ops), head.result, {name: tables[name] for name in tables if name in used}, context)


def _refuse_strangers(section: Section, layer: int) -> None:
    """A section may use its own values, the hidden state and the inputs only."""
    known = {section.source.name} if section.source else set()
    for op in section.ops:
        for item in op.inputs:
            if isinstance(item, Value) and item.name not in known and not item.name.startswith("input."):
                raise UnsupportedError(f"export to ExecuTorch: layer {layer} uses a value of another layer")
        known.add(op.output.name)
