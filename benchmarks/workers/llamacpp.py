"""llama.cpp through its C API: `MODEL.gguf THREADS`, then one turn per line of standard input."""

import ctypes
import json
import random
import sys
import time

import llama_cpp as api

CONTEXT = 512

model_path, threads = sys.argv[1], int(sys.argv[2])
silent = api.llama_log_callback(lambda *_: None)
api.llama_log_set(silent, None)
api.llama_backend_init()
model = api.llama_model_load_from_file(model_path.encode(), api.llama_model_default_params())
settings = api.llama_context_default_params()
settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT
settings.n_threads = settings.n_threads_batch = threads
context = api.llama_init_from_model(model, settings)
vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
draw = random.Random(0)


def forward(tokens: list[int]) -> None:
    """One pass; the logits of its last position are there when it returns."""
    array = (ctypes.c_int32 * len(tokens))(*tokens)
    if api.llama_decode(context, api.llama_batch_get_one(array, len(tokens))) != 0:
        sys.exit("llama_decode failed")
    api.llama_get_logits_ith(context, -1)


print(json.dumps({"version": api.__version__, "system": api.llama_print_system_info().decode()}), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    prompt, generated = ([draw.randrange(vocab) for _ in range(work[key])] for key in ("prefill", "decode"))
    api.llama_memory_clear(api.llama_get_memory(context), True)
    begin = time.perf_counter()
    forward(prompt)
    middle = time.perf_counter()
    for token in generated:
        forward([token])
    end = time.perf_counter()
    print(json.dumps({"prefill": middle - begin, "decode": end - middle}), flush=True)
