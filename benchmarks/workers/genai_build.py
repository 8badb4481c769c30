"""onnxruntime-genai's own builder: `SOURCE.gguf TARGET`, int4 for the CPU."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = map(Path, sys.argv[1:])
with tempfile.TemporaryDirectory() as scratch:
    # The builder takes a Hugging Face folder: the same weights, dequantized.
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(scratch)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(scratch)
    Path(scratch, "tokenizer.model").unlink(missing_ok=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", scratch, "-o", str(target)]
    command += ["-p", "int4", "-e", "cpu", "-c", f"{scratch}/cache", "--extra_options", "int4_accuracy_level=4"]
    subprocess.run(command, check=True, stdout=sys.stderr)
