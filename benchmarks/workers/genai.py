"""onnxruntime-genai: `MODEL_FOLDER THREADS`, then one turn per line of standard input."""

import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

import onnxruntime_genai as genai  # type: ignore[import-not-found, unused-ignore]

folder, threads = sys.argv[1], int(sys.argv[2])
config = genai.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
model = genai.Model(config)
draw = random.Random(0)
VOCAB = json.loads(Path(folder, "genai_config.json").read_text())["model"]["vocab_size"]

print(json.dumps({"version": version("onnxruntime-genai")}), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    length = work["prefill"] + work["decode"] + 1
    settings = genai.GeneratorParams(model)
    # The shortest length is the longest, so that no end-of-text token stops it.
    settings.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, settings)
    prompt = [draw.randrange(VOCAB) for _ in range(work["prefill"])]
    begin = time.perf_counter()
    generator.append_tokens(prompt)
    middle = time.perf_counter()
    generator.generate_next_token()  # takes the prompt's logits: no pass of the model
    start = time.perf_counter()
    for _ in range(work["decode"]):
        generator.generate_next_token()
    end = time.perf_counter()
    print(json.dumps({"prefill": middle - begin, "decode": end - start}), flush=True)
