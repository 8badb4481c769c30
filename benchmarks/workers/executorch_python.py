"""ExecuTorch's own Python runtime: `MODEL.pte THREADS VOCABULARY`, then one turn per line of standard input."""

import json
import random
import sys
import time
from importlib.metadata import version
from typing import Any

import executorch.extension.llm.custom_ops.custom_ops
import executorch.kernels.quantized  # noqa: F401
import torch
from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool

path, threads, vocabulary = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
_unsafe_reset_threadpool(threads)
module: Any = _load_for_executorch(path)
draw = random.Random(0)


at_once: int = module.method_meta("forward").input_tensor_meta(0).sizes()[1]


def forward(tokens: list[int], past: int) -> None:
    """As few passes as the program allows, as a caller of this runtime writes it."""
    for start in range(0, len(tokens), at_once):
        piece = tokens[start : start + at_once]
        module.forward((torch.tensor([piece]), torch.arange(past + start, past + start + len(piece))))


print(json.dumps({"version": version("executorch")}), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    prompt, generated = ([draw.randrange(vocabulary) for _ in range(work[key])] for key in ("prefill", "decode"))
    begin = time.perf_counter()
    forward(prompt, 0)
    middle = time.perf_counter()
    for index, token in enumerate(generated):
        forward([token], len(prompt) + index)
    end = time.perf_counter()
    print(json.dumps({"prefill": middle - begin, "decode": end - middle}), flush=True)
