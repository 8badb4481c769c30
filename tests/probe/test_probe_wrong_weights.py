"""The golden check on the device: what rounding does passes, a wrong kernel or wrong weights do not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo
from test_probe_kernels import HAS_KERNELS, plan_of

from edgekit.deploy.kernel_build import FLAGS, LIBRARY_NAME, ensure_kernels, kernel_sources
from edgekit.deploy.toolchain import find_toolchain, host_abi
from edgekit.probing.golden import judge
from edgekit.schema.event import GoldenResult
from edgekit.schema.integrity import check_bundle
from edgekit.schema.plan import Plan

Matrix = npt.NDArray[Any]

#: Per implementation, a change after which the middle of four bits is off by one, in prefill only.
OFF_BY_ONE = {
    "product_avx512.cpp": ("(p.bits == 4 ? 8 : 128);", "(p.bits == 4 ? 7 : 128);"),
    "product_avx2.cpp": ("-zero_point(p, 0, 0);", "-zero_point(p, 0, 0) + (p.bits == 4 && p.m > 1);"),
}


def edit(folder: Path, count: int, change: Callable[[Matrix], None], *, operand: int = 2) -> None:
    """Change an operand (1: weights, 2: scales, ``[rows, blocks]``) of the first ``count`` products in the file."""
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) >= count
    for node in nodes[:count]:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        tensor = stored[node.input[operand]]
        place = ExternalDataInfo(tensor)
        values = np.memmap(
            folder / place.location,
            dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
            mode="r+",
            offset=place.offset,
            shape=tuple(tensor.dims),
        )
        change(values.reshape(attributes["N"], -1))
        values.flush()


def double_a_block(scales: Matrix) -> None:
    scales[:, 0] *= 2


def flip_high_bits(weights: Matrix) -> None:
    draw = np.random.default_rng(0)
    weights[draw.random(weights.shape) < 0.05] ^= 0x80


@pytest.mark.parametrize("recipe", ["w4", "w8"])
@pytest.mark.parametrize(("operand", "change"), [(2, double_a_block), (1, flip_high_bits)])
def test_weights_that_were_corrupted_on_the_device_fail(
    launch, exported: Path, library: Path, tmp_path: Path, recipe: str, operand: int, change: Callable[[Matrix], None]
) -> None:
    original = exported / f"tiny-onnxruntime-{recipe}"
    golden = check_bundle(original).golden
    plan = plan_of(original, library, [])
    verdict = judge(golden, launch(plan).only(GoldenResult))
    assert verdict.passed, verdict.cause
    folder = Path(shutil.copytree(original, tmp_path / "corrupted"))
    # The plan stays that of the sound bundle; only the files behind it change.
    edit(folder, 3, change, operand=operand)
    plan = plan_at(plan, folder)
    verdict = judge(golden, launch(plan).only(GoldenResult))
    assert not verdict.passed
    assert "logits differ" in str(verdict.cause)


def plan_at(plan: Plan, folder: Path) -> Plan:
    """The same plan over the files in another folder."""
    artefact = msgspec.structs.replace(plan.artefact, model_path=str(folder / "model.onnx"))
    return msgspec.structs.replace(plan, artefact=artefact)


@pytest.mark.skipif(not HAS_KERNELS, reason="this processor has neither AVX2 nor AVX-512")
def test_a_wrong_kernel_fails_where_the_right_one_passes(launch, exported: Path, library: Path, tmp_path: Path) -> None:
    folder = exported / "tiny-onnxruntime-w4"
    golden = check_bundle(folder).golden
    sources = []
    for path in kernel_sources():
        text = path.read_text()
        if path.name in OFF_BY_ONE:
            wrong = text.replace(*OFF_BY_ONE[path.name])
            assert wrong != text
            text = wrong
        (tmp_path / path.name).write_text(text)
        sources += [str(tmp_path / path.name)] if path.suffix == ".cpp" else []
    toolchain = find_toolchain(str(host_abi()))
    wrong_library = tmp_path / LIBRARY_NAME
    subprocess.run(
        [*toolchain.command, *FLAGS, *sources, *toolchain.link_flags, "-o", str(wrong_library)], check=True, timeout=300
    )
    for kernels, passes in ((ensure_kernels(str(host_abi())), True), (wrong_library, False)):
        verdict = judge(golden, launch(plan_of(folder, library, [str(kernels)])).only(GoldenResult))
        assert verdict.passed is passes, verdict
