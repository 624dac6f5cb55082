# make demo [TEACHER="duo mdlm sedd dcd"]   distil shipped teachers, two at a time on a core each,
#                                           print teacher against student; dcd: Duo -> DCD -> IDLM
# make results                              all methods and seeds: results/sotu32, hours
# make test                                 lint and tests
# make clean                                what install and builds made, not runs
#
# No recipe names this folder, whose path may hold what make, the shell or Hydra takes for its own.
# A run works in its own folder: a relative algo.teacher_path begins there.

PYTHON ?= python3
TEACHER ?= duo sedd
SAMPLED := --steps 1 2 4 8 16 32 --samples 256
BIN := .venv/bin

# Fresh large tensors cost page faults on a CPU; threads that spin starve a machine that is shared.
export MALLOC_MMAP_THRESHOLD_ := 2147483647
export MALLOC_TRIM_THRESHOLD_ := 4294967296
export MALLOC_TOP_PAD_ := 268435456
export OMP_WAIT_POLICY := passive
export HF_HUB_OFFLINE := 1

.PHONY: demo results test install clean

install: $(BIN)/.installed

$(BIN)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: install
	OMP_NUM_THREADS=1 $(MAKE) -j2 $(TEACHER:%=demo-%)

demo-duo demo-mdlm: demo-%: install
	rm -rf runs/$@
	$(BIN)/python -m duo_ext +experiment=sotu_idlm_$* hydra.run.dir=runs/$@
	$(BIN)/python -m duo_ext.evaluate --teacher '$${idlm_asset:teachers/$*.ckpt}' \
	  --student runs/$@ $(SAMPLED) --output runs/$@

demo-sedd: install
	rm -rf runs/$@
	$(BIN)/python -m sedd_ext +experiment=sotu_idlm_sedd hydra.run.dir=runs/$@
	$(BIN)/python -m sedd_ext.evaluate --teacher '$${idlm_asset:teachers/sedd}' \
	  --student runs/$@ $(SAMPLED) --output runs/$@

demo-dcd: install
	rm -rf runs/$@
	$(BIN)/python -m duo_ext +experiment=sotu_dcd hydra.run.dir=runs/$@/dcd
	$(BIN)/python -m duo_ext +experiment=sotu_idlm_dcd hydra.run.dir=runs/$@/idlm \
	  algo.teacher_path=../dcd/checkpoints/last.ckpt
	$(BIN)/python -m duo_ext.evaluate --teacher '$${idlm_asset:teachers/duo.ckpt}' $(SAMPLED) \
	  --student runs/$@/dcd runs/$@/idlm \
	  --noise-removal ancestral greedy --output runs/$@

results: install
	$(BIN)/python -m benchmarks.sotu32
	$(BIN)/python -m benchmarks.readme

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest -n 2 --dist loadfile  # a file's tests share what they train

clean:
	rm -rf .venv build dist *.egg-info
