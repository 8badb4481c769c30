"""What a program calls outside of its delegates: the gate refuses strangers, even harmless ones."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

import stray

from edgekit.errors import UnfaithfulError
from edgekit_export.executorch.stored import StoredProgram
from edgekit_export.pipeline import export_bundles

CONTEXT = 64


@pytest.mark.parametrize("operator", [stray.DEQUANTIZE, stray.HADAMARD])
def test_a_stray_call_is_all_that_is_wrong_and_is_refused(
    operator: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray.add_stray(monkeypatch, operator)
    with pytest.raises(UnfaithfulError) as refused:
        export_bundles(str(trained), ["w4a8"], ["executorch"], out_dir=tmp_path, context_length=CONTEXT)
    assert refused.value.exit_code == 5
    assert refused.value.message.endswith("failed: operators")
    assert operator in (refused.value.detail or "")
    assert not list(tmp_path.iterdir())


def test_an_operator_that_no_runtime_has_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray.add_stray(monkeypatch, stray.AFFINE)
    with pytest.raises(UnfaithfulError, match=stray.AFFINE):
        export_bundles(str(trained), ["w8a8"], ["executorch"], out_dir=tmp_path, context_length=CONTEXT)
    assert not list(tmp_path.iterdir())


def test_what_was_kept_all_the_same_says_so(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray.add_stray(monkeypatch, stray.DEQUANTIZE)
    options = {"out_dir": tmp_path, "context_length": CONTEXT, "allow_unfaithful": True}
    [outcome] = export_bundles(str(trained), ["w8"], ["executorch"], **options)
    assert outcome.bundle is not None
    assert outcome.bundle.gate.allowed_unfaithful
    failed = {check.name: check for check in outcome.bundle.gate.checks if not check.passed}
    assert set(failed) == {"operators"}
    assert failed["operators"].found == f"{stray.DEQUANTIZE}, quantized_decomposed::quantize_per_tensor.out"
    assert outcome.directory is not None
    assert stray.DEQUANTIZE in StoredProgram(outcome.directory / "model.pte", {}, {}).operators
