# make demo   analyse and compare the committed checkpoints on bundled real images
# make test   lint, types and tests
# make reports   make reports/fashion_mnist again (needs FashionMNIST; see README)
# make reports-imagenet IMAGES=DIR   the same tools on ImageNet images at 224 pixels

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test reports reports-imagenet clean

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
	$(BIN)/svda-analyze checkpoints/fashion_mnist/*.pt --data fashion_mnist --maps 1000 --faithfulness 1000 \
	    --out reports/fashion_mnist
	$(BIN)/svda compress checkpoints/fashion_mnist/svda_s*.pt checkpoints/fashion_mnist/vit_s*.pt --budget 0.27 \
	    --out build/small --report reports/fashion_mnist

# IMAGES=DIR: one folder of images for each class. Random weights; timm from the extra
reports-imagenet: .venv/tested
	$(BIN)/svda-analyze dot:vit_tiny svda:vit_tiny timm:vit_tiny_patch16_224 --data imagefolder:$(IMAGES) \
	    --maps 100 --faithfulness 16 --out reports/imagenet_sample

clean:
	rm -rf .venv build reports/demo
