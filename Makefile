# Two commands are all that is needed on a fresh Debian 12 machine with Python 3.11:
#   make demo    environment, a real small model, export, probe on this machine, comparison and report
#   make test    environment and every test, the board with a real adbd included (as root)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
NAME ?= onnx-vs-llamacpp

# What does not measure this machine itself runs in two processes side by side, the longest first; everything else,
# whatever it is, runs alone afterwards. Boards have namespaces and an adb server of their own in each process.
TOGETHER := tests/board/test_readme_runs.py tests/export tests/probing/test_family_probing.py tests/board \
  tests/probe/test_probe_audit.py tests/probe/test_probe_arm64.py tests/probing/test_fitting_runs.py \
  tests/probing/test_survey_end_to_end.py tests/sweeping tests/docs tests/cli tests/catalogue tests/reporting \
  tests/deploy tests/analysis tests/kernels tests/packaging tests/schema tests/device

.PHONY: help demo test slow authorization lint audit bench docs support readme clean

help:
	@sed -n 's/^#   //p; s/^\([a-z]*\):.*## /\1: /p' Makefile

# pip is upgraded first: older ones know no dependency groups. torch goes in alone and pinned:
# an unpinned one pulls gigabytes.
$(VENV)/.export: pyproject.toml
	tools/system_packages demo
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[export]'
	touch $@

$(VENV)/.dev: $(VENV)/.export
	tools/system_packages test
	$(BIN)/python -m pip install --quiet --editable '.[executorch,cluster,usb]' --group dev
	touch $@

demo: $(VENV)/.export ## export SmolLM2-135M, probe it on this machine, write demo/report.html
	$(BIN)/edgekit calibrate --seconds 15
	$(BIN)/edgekit run smollm2-135m --runtime onnxruntime --quant fp32,w8,w4 -p 128 -n 64 -r 5 \
	  --bundles $(DEMO)/bundles --out $(DEMO)/runs --report $(DEMO)/report.html
	@echo "The report is $(DEMO)/report.html"

test: $(VENV)/.dev lint ## every test
	@if [ "$$(id -u)" = 0 ]; then tests/board/prepare.sh; else echo "not root: tests on boards will be skipped"; fi
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder $(TOGETHER); \
	together=$$?; \
	$(BIN)/python -m pytest -m "not slow" $(TOGETHER:%=--ignore=%); alone=$$?; \
	if [ $$together = 0 ] && [ $$alone = 0 ]; then echo "Every test passed."; \
	else echo "TESTS FAILED: see the two summaries above (exit codes $$together and $$alone)."; exit 1; fi

slow: $(VENV)/.dev ## big exports; needs time and memory
	$(BIN)/python -m pytest -m slow

authorization: $(VENV)/.dev ## build the adbd that asks hosts for their keys and test with it (root, Debian 12)
	tests/board/prepare.sh amd64
	tests/board/authorizing_adbd.sh
	$(BIN)/python -m pytest tests/board/test_authorization.py

lint: $(VENV)/.dev ## formatting, style, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.dev ## known vulnerabilities of what is installed; needs the network, meant for a schedule
	test -x $(VENV)/audit/bin/pip-audit || ($(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet 'pip-audit>=2.9,<3')
	$(BIN)/python tools/audit.py $(VENV)/audit/bin/pip-audit

bench: $(VENV)/.export ## measure beside a peer: make bench NAME=onnx-vs-llamacpp
	$(BIN)/python -m benchmarks.$(subst -,_,$(NAME))

docs: $(VENV)/.export ## regenerate the CLI reference, exit codes and JSON Schemas
	$(BIN)/python tools/generate_docs.py

support: $(VENV)/.dev ## export every family to every runtime and write docs/support.md from it (long)
	$(BIN)/python tools/support.py

readme: $(VENV)/.export ## regenerate the README's table and docs/benchmarks.md from benchmarks/results
	$(BIN)/python -m benchmarks.readme

clean: ## remove the environment and what the demo made
	rm -rf $(VENV) $(DEMO) build dist
