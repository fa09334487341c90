# make demo   analyse and compare the committed checkpoints on bundled real images
# make test   lint, types and tests
# make reports   make reports/fashion_mnist again (needs FashionMNIST; see README)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test reports clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,timm,transformers,open-clip]"
	touch $@

demo: .venv/installed
	$(BIN)/svda-analyze checkpoints/fashion_mnist/*.pt --data sample --out reports/demo
	@echo "open $(CURDIR)/reports/demo/summary.md"

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy svda_analysis
	$(BIN)/python -m pytest

reports: .venv/installed
	$(BIN)/svda-analyze checkpoints/fashion_mnist/*.pt --data fashion_mnist --maps 1000 --out reports/fashion_mnist

clean:
	rm -rf .venv build reports/demo
