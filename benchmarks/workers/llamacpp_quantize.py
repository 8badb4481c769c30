"""llama.cpp's own quantizer: `SOURCE.gguf TARGET.gguf`, to Q4_0."""

import ctypes
import sys

import llama_cpp as api

source, target = sys.argv[1:]
settings = api.llama_model_quantize_default_params()
settings.ftype = api.LLAMA_FTYPE_MOSTLY_Q4_0
settings.allow_requantize = True
if api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)) != 0:
    sys.exit(f"llama.cpp could not quantize {source}")
