"""llama.cpp through its C API: `MODEL.gguf THREADS`, then one turn per line of standard input.

GCC 12 compiles llama.cpp's AMX kernels so that they fault. There is no switch for them, but llama.cpp asks the kernel
for AMX first: where a trial in a child process faults, that request is refused, and llama.cpp takes what is next best.
"""

import ctypes
import json
import os
import random
import struct
import sys
import time
from typing import Any

import llama_cpp as api

CONTEXT = 512
ARCH_PRCTL, REQUEST_STATE = 158, 0x1023

model_path, threads = sys.argv[1], int(sys.argv[2])
silent = api.llama_log_callback(lambda *_: None)


def load() -> tuple[Any, Any]:
    """The model and a context of it."""
    api.llama_log_set(silent, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(model_path.encode(), api.llama_model_default_params())
    settings = api.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT
    settings.n_threads = settings.n_threads_batch = threads
    return model, api.llama_init_from_model(model, settings)


def forward(context: Any, tokens: list[int]) -> None:
    """One pass; the logits of its last position are there when it returns."""
    array = (ctypes.c_int32 * len(tokens))(*tokens)
    if api.llama_decode(context, api.llama_batch_get_one(array, len(tokens))) != 0:
        sys.exit("llama_decode failed")
    api.llama_get_logits_ith(context, -1)


def faults() -> bool:
    """Whether a prefill and a step end a process by a signal."""
    child = os.fork()
    if child == 0:
        context = load()[1]
        forward(context, list(range(32)))
        forward(context, [1])
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def refuse_amx() -> None:
    """Let the kernel answer the request for AMX's state with EPERM, by a seccomp filter on this process."""
    filters = [
        (0x20, 0, 0, 0),  # the system call's number
        (0x15, 0, 3, ARCH_PRCTL),
        (0x20, 0, 0, 16),  # its first argument
        (0x15, 0, 1, REQUEST_STATE),
        (0x06, 0, 0, 0x00050001),  # EPERM
        (0x06, 0, 0, 0x7FFF0000),  # allowed
    ]
    data = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in filters))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(filters), ctypes.addressof(data)))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, program, 0, 0) != 0:
        sys.exit("seccomp refused the filter that keeps llama.cpp from using AMX")


without_amx = sys.platform == "linux" and faults()
if without_amx:
    refuse_amx()
model, context = load()
vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
draw = random.Random(0)
facts = {"version": api.__version__, "without_amx": without_amx, "system": api.llama_print_system_info().decode()}
print(json.dumps(facts), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    prompt, generated = ([draw.randrange(vocab) for _ in range(work[key])] for key in ("prefill", "decode"))
    api.llama_memory_clear(api.llama_get_memory(context), True)
    begin = time.perf_counter()
    forward(context, prompt)
    middle = time.perf_counter()
    for token in generated:
        forward(context, [token])
    end = time.perf_counter()
    print(json.dumps({"prefill": middle - begin, "decode": end - middle}), flush=True)
