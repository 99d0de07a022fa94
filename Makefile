# The commands of maedfer_lab. The first use of any of them makes .venv; later uses are instant.

PYTHON ?= python3
EXTRAS := notebooks,flops,fast,sample,remote,tensorboard,export,page,dev
PY := .venv/bin/python
STAMP := .venv/.ready

# A target for each notebook, named like it; the longest first, beside which the others run.
NOTEBOOKS := $(patsubst notebooks/%.ipynb,%,$(wildcard \
    notebooks/04_*.ipynb notebooks/0[12356789]_*.ipynb notebooks/1*.ipynb))

# The stamp holds the folder it was made in: a half-made .venv has none, and one that was copied
# along or whose Python is gone is made anew.
READY := $(shell [ "$$(cat $(STAMP) 2>/dev/null)" = "$(CURDIR)" ] && $(PY) -c pass 2>/dev/null && echo yes)

# JupyterLab asks the web for news, updates and extensions; ours asks nobody.
NO_WEB := --LabApp.news_url=None --LabApp.extension_manager=readonly \
    --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

.DEFAULT_GOAL := help
.PHONY: $(NOTEBOOKS) help reproduce study test lab app page figures bench lint python-usable always
.DELETE_ON_ERROR:

help:
	@echo "make reproduce   run the numbered notebooks: figures in figures/, runs in runs/"
	@echo "                 two at a time where there are two cores, a core each"
	@echo "                 (MAEDFER_PROFILE=smoke, quick, study or full; MAEDFER_DATA=DIR for your own videos)"
	@echo "make study       rerun the study of notebooks 08 and 10: hours; see docs/study.md"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make app         serve a local page: drop a video, choose a face, explore it, save"
	@echo "make page        write page/index.html: the model in a browser, one file, no server"
	@echo "make figures     redraw figures/*.png from figures/*.json"
	@echo "make bench       benchmark models, data, evaluation and waiting times on this machine"
	@echo "make test        run all tests"
	@echo "make lint        check style and types"
	@echo "The first use of any of them makes .venv: about 3 minutes, 6 GB. Python: make PYTHON=python3.12 ..."

reproduce: $(STAMP)
	@$(PY) -m maedfer_lab.notebooks plan
	@$(MAKE) --no-print-directory -j$$($(PY) -m maedfer_lab.notebooks jobs) $(NOTEBOOKS)
	@$(PY) -m maedfer_lab.notebooks end

08_finetune: 06_attention
09_paper_tables: 04_pretrain
10_ablations: 06_attention 08_finetune
$(NOTEBOOKS): $(STAMP)
	@$(PY) -m maedfer_lab.notebooks $@

study: $(STAMP)
	@OMP_NUM_THREADS=1 $(PY) -m maedfer_lab.training.study
	@for one in 08_finetune 10_ablations; do MAEDFER_PROFILE=study $(PY) -m maedfer_lab.notebooks $$one || exit; done

test: $(STAMP)
	@echo "All tests, among them the notebooks at the smoke profile and the viewers in a real Chromium:"
	@echo "about 10 minutes on two cores; results are printed here, pictures of the viewers kept in tests/browser/pictures/."
	@$(PY) -m pytest -q

lab: $(STAMP)
	@echo "JupyterLab on notebooks/, at once, until Ctrl-C; figures are written to figures/, runs to runs/."
	@$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(NO_WEB) notebooks

app: $(STAMP)
	@$(PY) -m maedfer_lab.viewers.app

page: $(STAMP)
	@mkdir -p page
	@$(PY) -m maedfer_lab explain --out page/index.html

figures: $(STAMP)
	@echo "Redraws every figure from its numbers: seconds; figures/*.json to figures/*.png."
	@$(PY) -m maedfer_lab figures

bench: $(STAMP)
	@echo "Measures against a floor and plain code; let nothing else run. Results: figures/bench.json, figures/bench.png."
	@$(PY) -m maedfer_lab bench --json figures/bench.json

lint: $(STAMP)
	@echo "Checks style (ruff) and types (pyright): about half a minute; findings are printed here."
	@$(PY) -m ruff check maedfer_lab tests notebooks
	@$(PY) -m ruff format --check maedfer_lab tests notebooks
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright

$(STAMP): pyproject.toml $(if $(READY),,always) | $(if $(READY),,python-usable)
	@echo "Set-up of .venv (first use, or pyproject.toml changed): about 3 minutes, 6 GB in .venv/."
	@rm -f $@
	@$(if $(READY),,$(PYTHON) -m venv --clear .venv)
	@$(PY) -m pip install --quiet --disable-pip-version-check uv \
	    && $(PY) -m uv pip install --quiet --python $(PY) --compile-bytecode -e '.[$(EXTRAS)]' \
	    || { echo "uv failed; trying pip, which takes longer."; \
	         $(PY) -m pip install --prefer-binary -e '.[$(EXTRAS)]'; }
	@echo "$(CURDIR)" > $@

python-usable:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) is not installed; on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	         "name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) lacks venv or ensurepip; on Debian: apt-get install python3-venv" >&2; exit 1; }
