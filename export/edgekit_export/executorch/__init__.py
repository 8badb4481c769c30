"""The ExecuTorch half: a decoder from few traced layers, XNNPACK delegates written directly, one file."""
