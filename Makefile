# make demo [TEACHER=duo|mdlm]   distil a shipped teacher, print teacher against student
# make test                      lint and tests

PYTHON ?= python3
TEACHER ?= duo
BIN := .venv/bin
RUN := runs/demo-$(TEACHER)

# Fresh large tensors cost page faults on a CPU; threads that spin starve a machine that is shared.
export MALLOC_MMAP_THRESHOLD_ := 2147483647
export MALLOC_TRIM_THRESHOLD_ := 4294967296
export MALLOC_TOP_PAD_ := 268435456
export OMP_WAIT_POLICY := passive
export HF_HUB_OFFLINE := 1

.PHONY: demo test install clean

install: $(BIN)/.installed

$(BIN)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: install
	rm -rf $(RUN)
	$(BIN)/python -m duo_ext +experiment=sotu_idlm_$(TEACHER) hydra.run.dir=$(RUN)
	$(BIN)/python -m duo_ext.evaluate --teacher '$${idlm_asset:teachers/$(TEACHER).ckpt}' \
	  --student $(RUN)/checkpoints/best.ckpt --samples 256 --output $(RUN)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info
