# Needs Python 3.10 or newer with its venv module, and make. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

.PHONY: help demo test test-browser test-hosts check clean

help:
	@echo 'make demo    a first film'
	@echo 'make test    every test'
	@echo 'make test-browser  the tab, used in Chromium'
	@echo 'make test-hosts    what touches a web UI, with the packages that each of them pins'
	@echo 'make check   style and types'
	@echo 'make clean   remove what these made; films and models stay'

demo: .venv/standalone
	.venv/bin/t2v generate "a red circle moving right"

# A process for each core, with one thread each: the networks of most tests are too small to gain from more.
test: .venv/test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses logical --dist worksteal

check: .venv/test
	.venv/bin/ruff check
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A file that stands for everything having been installed. torch comes first and by itself, so that the build of it
# that this machine is set up for is found and then kept.
.venv/standalone: EXTRAS := standalone
.venv/test: EXTRAS := standalone,test
.venv/standalone .venv/test: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo 'This needs Python 3.10 or newer; is there one? make PYTHON=python3.12, for instance.'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'This Python lacks its venv module; on Debian and Ubuntu: sudo apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install $(TORCH)
	$(PIP) install --editable '.[$(EXTRAS)]'
	@touch $@

# The tab as a person uses it. Needs Chromium; on Debian: apt-get install chromium
test-browser: .venv/browser
	.venv/bin/python -m pytest tests/browser

.venv/browser: .venv/test
	$(PIP) install --editable '.[browser]'
	@touch $@

# What touches a web UI, under the packages that it pins: a virtual environment for each.
HOSTS := a1111 forge reforge sdnext

test-hosts: $(HOSTS:%=test-%)

.PHONY: $(HOSTS:%=test-%)
$(HOSTS:%=test-%): test-%: .venv-%/ready
	T2V_HOST=$* OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -c tests/hosts/pinned.ini --rootdir . tests/hosts tests/test_ui.py tests/api

# Not compiled: few of the files are ever imported.
HOST_PIP = .venv-$*/bin/python -m pip --disable-pip-version-check install --quiet --no-compile

.venv-%/ready: tests/hosts/requirements/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-$*
	$(HOST_PIP) $(TORCH)
	$(HOST_PIP) --requirement $<
	$(HOST_PIP) --no-deps $$(sed -n 's/^# --no-deps //p' $<)
	@touch $@
