"""Bounds on what rounding may lose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_export.onnx.quantize import dequantize, quantize, quantize_channels

matrices = st.tuples(
    st.integers(1, 9), st.integers(1, 100), st.integers(0, 2**31), st.sampled_from([1e-6, 0.05, 30.0])
).map(lambda drawn: torch.randn(drawn[0], drawn[1], generator=torch.Generator().manual_seed(drawn[2])) * drawn[3])


@settings(max_examples=60, deadline=None)
@given(weight=matrices, bits=st.sampled_from([4, 8]), block=st.sampled_from([16, 32, 128]), symmetric=st.booleans())
def test_errors_stay_below_plain_rounding(weight, bits, block, symmetric):
    found = quantize(weight, bits=bits, block=block, symmetric=symmetric)
    back = dequantize(found, bits=bits, columns=weight.shape[1])
    assert back.shape == weight.shape
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % block)).reshape(len(weight), -1, block)
    # Plain rounding with a range that reaches to the larger extreme on both sides.
    step = padded.abs().amax(-1) * 2 / ((1 << bits) - 2)
    bound = (step**2 * block).sum()
    assert ((back - weight) ** 2).sum() <= bound * 1.01 + 1e-30


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_what_is_already_on_a_grid_comes_back_exactly(seed, bits, symmetric):
    generator = torch.Generator().manual_seed(seed)
    top = 1 << bits
    values = torch.randint(0, top, (4, 64), generator=generator)
    values[:, ::32], values[:, 1::32] = 0, top - 1
    weight = (values - top // 2).to(torch.float32) * 0.125
    found = quantize(weight, bits=bits, block=32, symmetric=symmetric)
    torch.testing.assert_close(dequantize(found, bits=bits, columns=64), weight, rtol=1e-5, atol=1e-6)
    assert found.error < 1e-9


def test_precision_goes_where_inputs_are_large():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 256, generator=generator)
    energy = torch.rand(256, generator=generator) ** 6 + 1e-4
    inputs = torch.randn(400, 256, generator=generator) * energy.sqrt()

    def loss(found):
        return float(((dequantize(found, bits=4, columns=256) - weight) @ inputs.T).square().mean())

    plain = loss(quantize(weight, bits=4, block=32, symmetric=True))
    weighed = loss(quantize(weight, bits=4, block=32, symmetric=True, energy=energy))
    assert weighed < 0.8 * plain


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(symmetric):
    found = quantize(torch.zeros(3, 40), bits=4, block=32, symmetric=symmetric)
    assert torch.equal(dequantize(found, bits=4, columns=40), torch.zeros(3, 40))


def test_channels_use_their_own_scale():
    weight = torch.tensor([[1.0, -127.0], [0.001, 0.127]])
    values, scales = quantize_channels(weight)
    torch.testing.assert_close(values.to(torch.float32) * scales[:, None], weight, rtol=1e-3, atol=1e-3)
