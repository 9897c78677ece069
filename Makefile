# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help serve serve-lite test lint audit bench evaluate train weights reference fonts clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

serve: $(VENV)/serve.stamp  ## set up, start the service on port 5000 (PORT)
	$(BIN)/python qwen_captcha_service.py

serve-lite: $(VENV)/lite.stamp  ## the same without PyTorch, a tenth of the download: the bundled model
	$(BIN)/python qwen_captcha_service.py

test: $(VENV)/dev.stamp  ## set up, run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

lint: $(VENV)/dev.stamp  ## ruff, mypy, and the layers of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

audit: $(VENV)/dev.stamp  ## known vulnerabilities of what is installed (asks PyPI)
	$(BIN)/pip-audit --strict --local

bench: $(VENV)/dev.stamp $(if $(AGAINST),$(VENV)/compare.stamp)  ## speed against one image at a time through plain generate (AGAINST=ddddocr: and against it)
	$(BIN)/python -m evaluation.bench $(if $(AGAINST),--against $(AGAINST))

evaluate: $(VENV)/dev.stamp $(if $(AGAINST),$(VENV)/compare.stamp)  ## accuracy on FOLDER of MODEL or a running URL: make evaluate FOLDER=... HTML=page.html (AGAINST=ddddocr)
	$(BIN)/python -m evaluation.evaluate $(FOLDER) $(if $(MODEL),--model $(MODEL),--url $(or $(URL),http://127.0.0.1:5000)) $(if $(HTML),--html $(HTML)) $(if $(AGAINST),--against $(AGAINST))

train: $(VENV)/dev.stamp  ## a CPU smoke run of the training, a few minutes
	$(BIN)/python -m training.train --out runs/smoke --minutes 3

weights: $(VENV)/dev.stamp  ## remake the bundled checkpoint from the landed one, hours: make weights REAL=FOLDER of archives
	$(BIN)/python -m training.recipe runs/recipe --real $(or $(REAL),runs/drawn) --begin landed

reference: $(VENV)/dev.stamp  ## write the tables of settings, options, errors and metrics into the docs
	$(BIN)/python -m docs.reference

fonts:  ## install the typefaces and the word list that captchas are drawn with (Debian, as root)
	apt-get install -y --no-install-recommends $$($(PYTHON) -c "import json; print(*json.load(open('training/rendering/fonts.json')))") wamerican

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) qwen_captcha/__init__.py
	$(PYTHON) -m venv $(VENV)

$(VENV)/serve.stamp: requirements_qwen.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements_qwen.txt
	touch $@

$(VENV)/lite.stamp: requirements_lite.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements_lite.txt
	touch $@

$(VENV)/dev.stamp: requirements_dev.txt requirements_qwen.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements_dev.txt
	touch $@ $(VENV)/serve.stamp $(VENV)/lite.stamp

$(VENV)/compare.stamp: requirements_compare.txt | $(VENV)/dev.stamp
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements_compare.txt
	touch $@
