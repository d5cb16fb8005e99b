# The course's commands. Each one first sets up .venv; a second run reuses it.
#   PYTHON=python3.12   the Python that makes .venv (3.11, 3.12 or 3.13)
#   ONLY=05,07          chapters for "make course" and the PDF files of "make site", topics for "make bench"
#   JOBS=1              notebooks that "make course" runs at the same time; without it 2, where two cores and 8 GB are free
#   REPO=owner/name     where "make publish" says that the course is hosted, on GitHub
#   TAG=v1.0            the tag that Colab opens and installs; without it the last one stays
#   PORT=8890           the port of "make lab" on this machine (default: a free one from 8888 on)

.DEFAULT_GOAL := help
.PHONY: help setup .venv course site check test outputs steady lab bench publish clean

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c "$(FITS)" >/dev/null 2>&1 && { echo "$$p"; break; }; done)
COURSE_PYTHON := .venv/bin/python
# What .venv is made of. It is written into .venv last, so a set-up that was interrupted starts over; another lock or
# another folder (a virtual environment knows its own) makes a new one.
MADE_OF := { pwd; cat requirements.lock pyproject.toml; }
IS_MADE := { $(MADE_OF) | cmp -s - .venv/made-of && test -x $(COURSE_PYTHON); } 2>/dev/null
# Two workers, each with a whole file at a time. nbval runs the notebooks again and compares each output.
PYTEST := -m pytest --numprocesses=2 --dist=loadfile
NBVAL := --nbval --nbval-current-env

help:
	@echo "DeepSeek by the Numbers"
	@echo
	@echo "  make lab       open the course in JupyterLab, at chapter 00 (PORT=8890)"
	@echo "  make course    run every chapter; pages and report go to build/ (ONLY=05,07  JOBS=1)"
	@echo "  make site      the website, with handouts and slides, in build/site/html (PDF=1: handouts as PDF files, too)"
	@echo "  make check     run the quick tests: units, what chapters promise, style; no notebook, no browser"
	@echo "  make test      run all tests, the notebooks' outputs included"
	@echo "  make outputs   run every notebook and compare its outputs, nothing else"
	@echo "  make steady    compare the verdicts of several conditions: a busy core, one thread, AVX2, another seed"
	@echo "                 (ONLY=05  CONDITIONS=quiet,busy  PYTHON2=path/to/another/python)"
	@echo "  make bench     measure and print side-by-side ratios (ENGINES=1: engines that read the same file, too)"
	@echo "  make publish   point badges, set-up cells and links at your copy on GitHub (REPO=owner/name  TAG=v1.0)"
	@echo "  make clean     remove .venv, build/ and caches in this folder"
	@echo
	@echo "docs/workshop.md has plans for a workshop of 90 minutes, half a day or two days."
	@echo "The first command sets up .venv: about 3 minutes, 1.9 GB (Linux: 5.9 GB). It needs Python 3.11, 3.12 or 3.13."

# Two set-ups at once would spoil .venv, so the second waits for the first.
setup:
	@$(IS_MADE) && exit; told=; \
	until mkdir .setting-up 2>/dev/null; do \
		test -w . || { echo "$(CURDIR) cannot be written to, so nothing can be set up in it." >&2; exit 1; }; \
		test "$$told" || echo "Another set-up runs here: waiting for it. (If none does, remove .setting-up.)" >&2; \
		told=yes; sleep 1; \
	done; \
	trap 'rmdir .setting-up' EXIT; trap 'exit 1' HUP INT TERM; \
	$(IS_MADE) || $(MAKE) --no-print-directory .venv

.venv:
	@test -n "$(PYTHON)" || \
		{ echo "No Python found that fits. Install Python 3.11, 3.12 or 3.13, then run make again." >&2; exit 1; }
	@"$(PYTHON)" -c "$(FITS)" 2>/dev/null || \
		{ echo "The course needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not: try make PYTHON=python3.12." >&2; exit 1; }
	@command -v uv >/dev/null || "$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || \
		{ echo "$(PYTHON) has no venv. On Debian and Ubuntu: sudo apt install python3-venv; then run make again." >&2; exit 1; }
	@echo "Setting up .venv: a few minutes, 1.9 GB (Linux: 5.9 GB)."
	@rm -rf .venv
	@# Settings of yours that put packages elsewhere than into .venv count everywhere but here.
	@unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT; set -e; \
	if command -v uv >/dev/null; then \
		uv venv --quiet --python "$(PYTHON)" .venv; \
		uv pip install --python $(COURSE_PYTHON) -r requirements.lock; \
		uv pip install --python $(COURSE_PYTHON) --no-deps --no-build-isolation -e .; \
	else \
		"$(PYTHON)" -m venv .venv; \
		printf '[%s]\nuser = no\ntarget =\nprefix =\nroot =\n' global install > .venv/pip.conf; \
		$(COURSE_PYTHON) -m pip install -r requirements.lock; \
		$(COURSE_PYTHON) -m pip install --no-deps --no-build-isolation -e .; \
	fi; \
	$(COURSE_PYTHON) -c "import torch, transformers, jupyterlab, utils"
	@$(MADE_OF) > .venv/made-of

course: setup
	@$(COURSE_PYTHON) -m tools run $(if $(ONLY),--only "$(ONLY)") $(if $(JOBS),--jobs "$(JOBS)")

site: setup
	@$(COURSE_PYTHON) -m tools site $(if $(PDF),--pdf) $(if $(ONLY),--only "$(ONLY)") $(if $(LANGUAGE),--language "$(LANGUAGE)")

check: setup
	@$(COURSE_PYTHON) $(PYTEST) -m "not slow" tests

test: setup
	@$(COURSE_PYTHON) $(PYTEST) $(NBVAL)

outputs: setup
	@$(COURSE_PYTHON) $(PYTEST) $(NBVAL) notebooks

steady: setup
	@$(COURSE_PYTHON) -m tools steady $(if $(ONLY),--only "$(ONLY)") $(if $(CONDITIONS),--conditions "$(CONDITIONS)") \
		$(if $(PYTHON2),--python2 "$(PYTHON2)")

lab: setup
	@JUPYTER_CONFIG_DIR="$(CURDIR)/tools/jupyter" .venv/bin/jupyter lab $(if $(PORT),--port="$(PORT)" --ServerApp.port_retries=0)

bench: setup
	@$(COURSE_PYTHON) -m tools bench $(if $(ONLY),--only "$(ONLY)")

publish:
	@test -n "$$REPO" || { echo "Say where the course is hosted: make publish REPO=owner/name TAG=v1.0" >&2; exit 2; }
	@$(MAKE) --no-print-directory setup
	@$(COURSE_PYTHON) -m tools publish $(if $(TAG),--tag="$$TAG") -- "$$REPO"

clean:
	@rm -rf .venv .setting-up build .pytest_cache .ruff_cache .hypothesis ./*.egg-info
	@find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
	@echo "Removed .venv, build/ and caches. The models in your user cache folder stay."
