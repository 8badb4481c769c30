"""Evidence from a published survey: the same claims, on figures that others measured once."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.survey.evidence import Contrast, Evidence, Memory, Shape, Shares, Subject, Timing
from edgekit.schema.measurements import Measurements, load_measurements
from edgekit.schema.model_profile import load_model_profile
from edgekit.schema.published import PublishedSurvey

MIB = 2**20
#: What llama.cpp's profile calls the multiplication of matrices.
_PRODUCTS = ("mul_mat_vec_q", "gemm")


def published_evidence(survey: PublishedSurvey) -> Evidence:
    """The survey's figures. Every one is a single value: round 0 is all there is.

    Raises:
        InputError: a model without a profile, or measurements that are not there.
    """
    measured = load_measurements(survey.measurements)
    subjects = _Subjects(survey, measured.context)
    timings = [*_by_model(measured, subjects), *_curves(survey, subjects)]
    memories = [
        Memory(
            subject=subjects.of(row.model),
            # llama.cpp holds its cache whole from the start.
            filled=measured.context,
            total=round(row.total_mib * MIB),
            weights=round(row.parameters_mib * MIB),
            kv_cache=round(row.kv_cache_mib * MIB),
            compute=round(row.compute_mib * MIB),
            cache_element=survey.cache_element,
        )
        for row in survey.memory
    ]
    shares = [
        Shares(
            subject=subjects.of(row.model),
            phase=row.phase,
            matrix_products=sum(row.operators.get(name, 0.0) for name in _PRODUCTS),
            lm_head=row.modules.get("lm_head"),
        )
        for row in survey.shares
    ]
    return Evidence(
        title=survey.title,
        device=survey.device,
        timings=timings,
        memories=memories,
        shares=shares,
        contrasts=[Contrast(item.property, item.one, item.other) for item in survey.contrasts],
        gaps={int(number): reason for number, reason in survey.gaps.items()},
    )


def _by_model(measured: Measurements, subjects: _Subjects) -> Iterator[Timing]:
    for row in measured.rows:
        subject = subjects.of(row.model)
        yield Timing(subject, "models", 1, "prefill", measured.prompt, 0, {0: row.prefill_ms / 1e3 / measured.prompt})
        yield Timing(subject, "models", 1, "decode", measured.generated, measured.prompt, {0: row.decode_ms / 1e3})


def _curves(survey: PublishedSurvey, subjects: _Subjects) -> Iterator[Timing]:
    for curve in survey.curves:
        subject = subjects.of(curve.model, curve.recipe, curve.bits)
        for tokens, prefill in enumerate(curve.prefill_ms, start=curve.first):
            yield Timing(subject, "formats", 1, "prefill", tokens, 0, {0: prefill / 1e3 / tokens})
        for depth, decode in enumerate(curve.decode_ms, start=curve.first):
            yield Timing(subject, "formats", 1, "decode", 1, depth, {0: decode / 1e3})


class _Subjects:
    """Models of the catalogue, each read once."""

    def __init__(self, survey: PublishedSurvey, context: int) -> None:
        self._survey = survey
        self._context = context
        self._shapes: dict[str, Shape] = {}

    def of(self, model: str, recipe: str | None = None, bits: float | None = None) -> Subject:
        """The model in a format; None: the one in which the survey measured most."""
        survey = self._survey
        return Subject(
            shape=self._shape(model),
            recipe=survey.recipe if recipe is None else recipe,
            bits=survey.bits if bits is None else bits,
            runtime=survey.runtime,
            context=self._context,
            processor=survey.processor,
        )

    def _shape(self, model: str) -> Shape:
        if model not in self._shapes:
            decoder = decoder_of(load_model_profile(model).config, origin=model)
            self._shapes[model] = Shape(
                name=model,
                parameters=decoder.parameters,
                query_width=sum(attention.heads * attention.head_dim for attention in decoder.attentions),
                cache_width=sum(attention.kv_heads * attention.head_dim for attention in decoder.attentions),
                vocabulary=decoder.vocabulary,
                tied=decoder.tied,
            )
        return self._shapes[model]
