"""The command line: parse, call one function, write, print. torch is imported inside commands alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.errors import InputError, check_writable

_DATA_NAMES = "fashion_mnist, cifar10, cifar100, imagenet100, imagefolder:DIR or sample"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="svda-analysis", prog_name="svda")
def cli() -> None:
    """How does a Vision Transformer attend? Train, measure and compare.

    \b
    Examples:
      svda train --dataset fashion_mnist --attention svda --out checkpoints/svda_s0.pt
      svda analyze checkpoints/svda_s0.pt
      svda paper --from checkpoints
    """


@cli.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("checkpoints", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", metavar="NAME", help=f"{_DATA_NAMES}. Default: what the checkpoint was trained on.")
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA.")
@click.option("--out", metavar="DIR", help="Folder for the report. Default: reports/<name>.")
@click.option("--images", type=int, metavar="N", help="Measure on at most N images. Default: all test images.")
@click.option("--precision", type=float, metavar="P", help="Stop when every 95% interval is within P of its range.")
@click.option("--indicators", metavar="A,B,...", help="Only these indicators (comma-separated).")
@click.option("--baseline", metavar="MODEL", help="Compare against this model. Default: the one with dot attention.")
@click.option("--examples", type=int, default=4, show_default=True, metavar="N", help="Images whose maps are drawn.")
@click.option("--noise", type=float, default=0.1, show_default=True, help="Input noise for perturbation_robustness.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise and of drawing images.")
@click.option("--batch-size", type=int, default=64, show_default=True, metavar="N")
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... Default: cuda where there is one.")
@click.option("--prefix-tokens", type=int, metavar="N", help="Tokens before the first patch, if the model hides it.")
@click.option(
    "--preprocess", multiple=True, metavar="KEY=VALUE", help="image_size, resize, interpolation, mean or std of images."
)
@click.option("--maps", type=int, metavar="N", help="Also compare attention maps head by head on N images (8 or more).")
@click.option("--faithfulness", type=int, metavar="N", help="Also measure deletion and insertion on N images.")
@click.option("--quiet", is_flag=True, help="Print only where the report is.")
@click.version_option(package_name="svda-analysis", prog_name="svda-analyze")
def analyze(
    checkpoints: tuple[str, ...],
    out: str | None,
    baseline: str | None,
    maps: int | None,
    faithfulness: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the attention of one model, or compare several, and write a report.

    MODEL is a checkpoint, or timm:NAME[@WEIGHTS], torchvision:NAME[@WEIGHTS], hf:FOLDER, or
    module:PACKAGE.MODULE:FUNCTION[@WEIGHTS], with weights as .pt or .safetensors. Runs that differ in their seed
    alone are one model; models are compared in pairs of equal seeds.

    \b
    Examples:
      svda-analyze checkpoint.pt
      svda-analyze checkpoints/fashion_mnist/*.pt --precision 0.01
      svda-analyze timm:vit_tiny_patch16_224@weights.pt --data imagefolder:DIR
    """
    options["indicators"] = (
        [name.strip() for name in options["indicators"].split(",")] if options["indicators"] else None
    )
    from svda_analysis.analyze import analyze as run
    from svda_analysis.maps import compare_runs
    from svda_analysis.report import write_report
    from svda_analysis.results import Analysis
    from svda_analysis.specs import open_model, run_names

    opened = [open_model(spec) for spec in checkpoints]
    names = run_names(opened)
    folder = Path(out) if out else Path("reports") / _report_name(checkpoints, opened[0].name)
    options["preprocessing"] = _preprocessing(opened[0].preprocessing, options.pop("preprocess"))
    if baseline is not None and baseline not in names:
        raise InputError(f"--baseline must be one of {', '.join(dict.fromkeys(names))}, got {baseline!r}")
    check_writable(folder, "output folder")
    parts = []
    with _progress("images", quiet) as advance:
        for model, name in zip(opened, names, strict=True):
            part = run(model, name=name, progress=functools.partial(advance, model.name), **options)
            if faithfulness is not None:
                part = _with_faithfulness(
                    part, model, functools.partial(advance, "faithfulness"), faithfulness, options
                )
            parts.append(part)
        analysis = Analysis.join(parts)
        if maps is not None:
            wanted = {key: options[key] for key in ("data", "data_root", "seed")}
            found = compare_runs(
                opened, names, baseline, images=maps, progress=functools.partial(advance, "maps"), **wanted
            )
            analysis = dataclasses.replace(analysis, maps=found)
    command = shlex.join(["svda-analyze", *_arguments_given()])
    written = write_report(analysis, folder, baseline=baseline, command=command)
    for line in analysis.meta["warnings"]:
        click.echo(f"warning: {line}", err=True)
    if not quiet:
        _print_analysis(analysis, baseline, analysis.meta["labels"])
    click.echo(f"report: {written[0]} ({len(written)} files)")


@cli.command()
@click.option("--dataset", required=True, metavar="NAME", help=f"{_DATA_NAMES}.")
@click.option("--attention", type=click.Choice(["dot", "svda", "cosine"]), default="svda", show_default=True)
@click.option("--out", required=True, metavar="FILE", help="The checkpoint, written after every epoch.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, metavar="N", help="Epochs of the whole schedule.")
@click.option("--preset", metavar="NAME", help="Model size: a data set's name, vit_tiny, vit_small or vit_base.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field of the model or recipe; repeat.")
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run from --out.")
@click.option("--stop-after", type=int, metavar="N", help="End after epoch N of the schedule.")
@click.option(
    "--mixed-precision", type=click.Choice(["auto", "no", "bf16", "fp16"]), default="auto", help="auto: bf16 on CUDA."
)
@click.option("--compile", is_flag=True, help="Compile the model with torch.compile.")
@click.option("--track", metavar="NAME", help="Also log to a tracker that accelerate knows, such as tensorboard.")
def train(dataset: str, out: str, preset: str | None, settings: tuple[str, ...], **options: Any) -> None:
    """Train a Vision Transformer with dot-product, SVDA or cosine attention.

    \b
    Examples:
      svda train --dataset fashion_mnist --attention svda --seed 0 --out checkpoints/svda_s0.pt
      svda train --dataset sample --epochs 3 --set depth=2 --set shape_penalty=0.1 --out try.pt
      torchrun --nproc-per-node 2 -m svda_analysis.cli train --dataset cifar10 --out vit.pt
    """
    from svda_analysis.manifest import default_preset
    from svda_analysis.model import ViTConfig
    from svda_analysis.train import TrainConfig
    from svda_analysis.train import train as run

    base = dataset.partition(":")[0]
    preset = preset or default_preset(dataset)
    given = {"attention": options.pop("attention"), "dataset": dataset, "seed": options.pop("seed")}
    if (epochs := options.pop("epochs")) is not None:
        given["epochs"] = epochs
    model_fields, recipe_fields = _split_settings(settings, given, ViTConfig, TrainConfig)
    if base in ("imagenet100", "imagefolder") and "num_classes" not in model_fields:
        model_fields["num_classes"] = _count_classes(dataset, options["data_root"])
    config, recipe = ViTConfig.preset(preset, **model_fields), TrainConfig(**recipe_fields)
    with _training_display() as observer:
        checkpoint = run(config, recipe, out, on_start=_say_start, on_progress=observer, **options)
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        click.echo(f"checkpoint: {out} (epoch {checkpoint.epoch} of {recipe.epochs})")


@cli.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--min-logit", type=float, metavar="L", help="Keep what moves the logits by L or more. Default: 0.05.")
@click.option("--energy", type=float, metavar="E", help="Instead: keep this share of each head's energy, in (0, 1].")
@click.option("--budget", type=float, metavar="S", help="Instead: keep this share of the rows of W_q and W_k.")
@click.option(
    "--tolerance",
    type=float,
    metavar="P",
    help="Instead: the smallest model whose interval excludes a loss of P points.",
)
@click.option(
    "--criterion", type=click.Choice(["operator", "data", "sigma", "random"]), default="operator", show_default=True
)
@click.option(
    "--norm-logit",
    type=float,
    metavar="L",
    help="Keep rows for the norm alone that move the logits by L. Default: a tenth of --min-logit; 0: all, inf: none.",
)
@click.option("--constant/--no-constant", default=True, show_default=True, help="A constant for the rest of the norm.")
@click.option(
    "--finetune", type=int, default=0, metavar="EPOCHS", help="Then teach what was compressed the whole model's logits."
)
@click.option("--data", metavar="NAME", help=f"{_DATA_NAMES}. Default: what the checkpoint was trained on.")
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA.")
@click.option("--images", type=int, metavar="N", help="Verify on at most N test images. Default: all.")
@click.option("--sweep/--no-sweep", default=True, show_default=True, help="Also try other budgets, energies, criteria.")
@click.option("--sweep-images", type=int, metavar="N", help="Test images for each energy of the sweep. Default: 2000.")
@click.option(
    "--out",
    metavar="PATH",
    help="The smaller checkpoint, or a folder for it (of several: always). Default: beside it, as NAME_e90.pt.",
)
@click.option("--report", metavar="DIR", help="Folder of the report. Default: reports/<name>.")
def compress(checkpoints: tuple[str, ...], out: str | None, report: str | None, sweep: bool, **options: Any) -> None:
    """Remove weak score directions from checkpoints for good, verify what it costs, and write the smaller ones.

    Rows of W_q and W_k are removed, so the file, the parameters and the work shrink. Several checkpoints share a
    report, with intervals over the runs of each model. A plain ViT of timm or torchvision is compressed from Python:
    svda_analysis.compress_model.

    \b
    Examples:
      svda compress checkpoints/fashion_mnist/svda_s0.pt
      svda compress svda_s0.pt --energy 0.9 --criterion sigma
      svda compress svda_s*.pt vit_s*.pt --budget 0.3 --out smaller
      svda compress svda_s0.pt --tolerance 0.5 --finetune 1
    """
    from svda_analysis.checkpoint import save
    from svda_analysis.compression_report import write_compression
    from svda_analysis.specs import open_model, run_names
    from svda_analysis.verify import compress_and_verify

    if sum(options[name] is not None for name in ("energy", "min_logit", "budget", "tolerance")) > 1:
        raise InputError("--energy, --min-logit, --budget and --tolerance exclude each other: give one")
    if options["images"] is not None and options["images"] < 1:
        raise InputError(f"--images must be at least 1, got {options['images']}")
    if options["sweep_images"] is not None and options["sweep_images"] < 1:
        raise InputError(f"--sweep-images must be at least 1, got {options['sweep_images']}")
    if options["sweep_images"] is None:
        del options["sweep_images"]
    targets = _smaller_files([Path(name) for name in checkpoints], out, options)
    first, several = Path(checkpoints[0]), len(checkpoints) > 1
    folder = Path(report) if report else Path("reports") / (first.resolve().parent.name if several else first.stem)
    names = run_names([open_model(path) for path in checkpoints]) if several else [first.stem]
    for target in targets:
        check_writable(target.parent, "--out: the folder")
    check_writable(folder, "report folder")
    tolerance, epochs, images = (options.pop(name) for name in ("tolerance", "finetune", "images"))
    if options["min_logit"] is None:
        del options["min_logit"]
    if not sweep:
        options["sweep_images"] = 0
    done = []
    for checkpoint, target, name in zip(checkpoints, targets, names, strict=True):
        with _progress("points", False) as advance:
            run = compress_and_verify(
                checkpoint,
                tolerance=None if tolerance is None else tolerance / 100,
                epochs=epochs,
                test_images=images,
                name=name,
                progress=advance,
                **options,
            )
        save(run.checkpoint, target)
        click.echo(f"checkpoint: {target} ({os.path.getsize(target) / 1e6:.1f} MB)")
        done.append(run)
    command = shlex.join(["svda", *(click.get_current_context().obj or [])])
    written = write_compression(done, folder, command=command)
    for line in dict.fromkeys(line for run in done for line in run.meta["warnings"]):
        click.echo(f"warning: {line}", err=True)
    _print_compression(done)
    click.echo(f"report: {written[0]} ({len(written)} files)")


@cli.command()
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--methods", metavar="A,B,...", help="Only these methods (comma-separated). Default: all.")
@click.option("--target", type=int, metavar="CLASS", help="Explain this class. Default: what the model predicts.")
@click.option("--out", metavar="DIR", help="Folder for the figures. Default: reports/<model>-explained.")
@click.option("--prefix-tokens", type=int, metavar="N", help="Tokens before the first patch, if the model hides it.")
def explain(
    model: str,
    images: tuple[str, ...],
    methods: str | None,
    target: int | None,
    out: str | None,
    prefix_tokens: int | None,
) -> None:
    """Draw attention and attribution maps over images: one row an image, one column a method.

    MODEL is what svda-analyze takes; an IMAGE is a file, or a folder of them.

    \b
    Example:
      svda explain checkpoints/fashion_mnist/svda_s0.pt shoe.png --methods rollout,relevance
    """
    from svda_analysis import plots
    from svda_analysis.analyze import as_logits
    from svda_analysis.attribute import METHODS, attribute
    from svda_analysis.sources import open_images
    from svda_analysis.specs import open_model

    names = [name.strip() for name in methods.split(",")] if methods else list(METHODS)
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods must be among {', '.join(METHODS)}, got {name!r}")
    subject = open_model(model)
    folder = Path(out) if out else Path("reports") / f"{subject.name}-explained"
    check_writable(folder, "output folder")
    inputs, pictures, files = open_images(images, subject)
    maps = {
        METHODS[name].label: attribute(
            subject.model, inputs, method=name, target=target, prefix_tokens=prefix_tokens
        ).numpy()
        for name in names
    }
    classes = subject.data.get("classes") or []
    predicted = as_logits(subject.model(inputs)).argmax(-1).tolist()
    captions = [
        f"{Path(file).stem[:14]}\n{classes[p] if p < len(classes) else f'class {p}'}"
        for file, p in zip(files, predicted, strict=True)
    ]
    signed = [METHODS[name].label for name in names if METHODS[name].signed]
    for start in range(0, len(files), 8):  # eight rows fill a page
        rows = slice(start, start + 8)
        figure = plots.plot_explanations(
            pictures[rows],
            {name: values[rows] for name, values in maps.items()},
            signed=signed,
            captions=captions[rows],
        )
        name = "explanations" if len(files) <= 8 else f"explanations-{start // 8 + 1}"
        click.echo(f"figure: {plots.save(figure, folder, name)[1]}")


@cli.command()
@click.argument("manifest", default="paper", metavar="[MANIFEST]")
@click.option("--from", "source", metavar="DIR", help="Train nothing: take the finished checkpoints under DIR.")
@click.option("--out", metavar="DIR", help="Folder for the report. Default: reports/<manifest's name>.")
@click.option(
    "--checkpoints", metavar="DIR", help="Where runs are trained. Default: checkpoints, of other studies runs/<name>."
)
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA. Nothing is downloaded.")
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Runs trained at once.")
def paper(
    manifest: str, source: str | None, out: str | None, checkpoints: str | None, data_root: str | None, jobs: int
) -> None:
    """Train what a study lacks, and write its report: tables, statistics, figures and verdicts.

    MANIFEST is a TOML file or one that the package brings: paper (the default), sigma or smoke. Stopped at any moment
    and started again, it goes on where it was; files whose content did not change are not touched.

    \b
    Examples:
      svda paper
      svda paper --from checkpoints
      svda paper sigma --jobs 2
    """
    from svda_analysis.manifest import load_manifest
    from svda_analysis.paper import find_checkpoints, train_missing, write_paper

    study = load_manifest(manifest)
    folder = Path(out) if out else Path("reports") / study.name
    check_writable(folder, "output folder")
    warnings: list[str] = []
    if source is not None and (checkpoints is not None or jobs != 1):
        raise InputError("--from trains nothing: leave --checkpoints and --jobs out")
    if source is not None:
        trained, warnings = find_checkpoints(source)
    else:
        place = checkpoints or ("checkpoints" if manifest == "paper" else f"runs/{study.name}")
        with _training_display() as observer:
            trained = train_missing(study, place, data_root=data_root, jobs=jobs, on_run=_say_run, on_progress=observer)
    for line in warnings:
        click.echo(f"warning: {line}", err=True)
    command = shlex.join(
        ["svda", "paper", *([manifest] if manifest != "paper" else []), *(["--from", source] if source else [])]
    )
    with _progress("", False) as advance:
        written = write_paper(
            study, trained, folder, data_root=data_root, command=command, warnings=warnings, progress=advance
        )
    click.echo(f"report: {written[0]} ({len(written)} files)")


@cli.command()
@click.argument("source")
@click.argument("target")
def export(source: str, target: str) -> None:
    """Copy a checkpoint without its optimizer state, for sharing.

    \b
    Example:
      svda export runs/svda_s0.pt checkpoints/svda_s0.pt
    """
    from svda_analysis.checkpoint import export as run

    run(source, target)
    click.echo(f"checkpoint: {target} ({os.path.getsize(target) / 1e6:.1f} MB)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``svda``."""
    _run(cli, "svda", arguments)


def analyze_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``svda-analyze``."""
    _run(analyze, "svda-analyze", arguments)


def _run(command: click.Command, name: str, arguments: Sequence[str] | None) -> None:
    """Run a command; bad input becomes one line on stderr and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command.main(given, prog_name=name, standalone_mode=False, obj=given)
    except InputError as error:
        click.echo(f"error: {_one_line(error)}", err=True)
        code = 2
    except click.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {_one_line(error.format_message())}", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


# --- helpers of the commands ----------------------------------------------------------------------------------------


def _with_faithfulness(part: Any, model: Any, progress: Any, images: int, options: dict[str, Any]) -> Any:
    """The analysis of one run with the rows of its faithfulness behind its own."""
    import pandas as pd

    from svda_analysis.faithfulness import faithfulness

    run = part.meta["runs"][0]
    wanted = {key: options[key] for key in ("data", "data_root", "seed")}
    rows = faithfulness(model, images=images, progress=progress, **wanted)
    rows = rows.assign(model=run["model"], attention=run["attention"]).astype(part.table.dtypes.to_dict())
    return dataclasses.replace(part, table=pd.concat([part.table, rows], ignore_index=True))


def _report_name(checkpoints: Sequence[str], first: str) -> str:
    if len(checkpoints) == 1:
        return first
    parents = {Path(path).resolve().parent for path in checkpoints}
    return parents.pop().name if len(parents) == 1 else "comparison"


def _one_line(message: object) -> str:
    return " ".join(str(message).splitlines())  # a file's name may hold a line break


def _arguments_given() -> list[str]:
    arguments = click.get_current_context().obj or []
    return arguments[1:] if arguments[:1] == ["analyze"] else arguments


def _split_settings(settings: Sequence[str], given: dict[str, Any], *classes: type) -> list[dict[str, Any]]:
    """``KEY=VALUE`` words and options, sorted into the fields of each class and read as the field's type."""
    found: list[dict[str, Any]] = [{} for _ in classes]
    words: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set must be KEY=VALUE, got {word!r}")
        words[key] = value
    every = {field.name: (field, at) for at, cls in enumerate(classes) for field in dataclasses.fields(cls)}
    for key, value in {**given, **words}.items():
        if key not in every:
            raise InputError(f"--set must name one of {', '.join(every)}, got {key!r}")
        field, at = every[key]
        found[at][key] = _parse(field, value) if isinstance(value, str) else value
    return found


def _parse(field: dataclasses.Field[Any], text: str) -> Any:
    """Read ``text`` as the type of the field's default; a field that is a number or a rule takes either."""
    default = field.default
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"{field.name} must be true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, str):
        with contextlib.suppress(ValueError):
            return float(text) if "float" in str(field.type) else text
        return text
    try:
        return int(text) if default is None else type(default)(text)  # type: ignore[misc]  # int or float
    except ValueError:
        raise InputError(f"{field.name} must be a number like {default!r}, got {text!r}") from None


def _preprocessing(own: Any, words: Sequence[str]) -> Any:
    """The model's own preprocessing with the given fields changed; None where nothing was given."""
    if not words:
        return None
    from svda_analysis.data import Preprocessing

    given: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            if key in ("image_size", "resize"):
                given[key] = int(value)
            elif key in ("mean", "std"):
                given[key] = tuple(float(x) for x in value.split(","))
            elif key == "interpolation" and value in ("nearest", "bilinear", "bicubic"):
                given[key] = value
            else:
                raise ValueError
        except ValueError:
            allowed = "image_size=224, resize=256, interpolation=bicubic, mean=0.5,0.5,0.5 or std=0.5,0.5,0.5"
            raise InputError(f"--preprocess must be like {allowed}, got {word!r}") from None
    size = given.get("image_size", 224)
    fields = dataclasses.asdict(own) if own else {"image_size": size, "resize": round(size * 256 / 224)}
    return Preprocessing(**{**fields, **given})


def _count_classes(dataset: str, root: str | None) -> int:
    from svda_analysis.data import load_dataset

    return len(load_dataset(dataset, root=root, train=True).classes)


@contextlib.contextmanager
def _progress(unit: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each label in a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda label, done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    tasks: dict[str, Any] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:

        def advance(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(escape(label), total=total)
            bar.update(tasks[label], completed=done, total=total)

        yield advance


def _say_start(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


def _say_run(run: Any, at: int, total: int) -> None:
    click.echo(f"run {at} of {total}: {run.dataset} {run.name} seed {run.recipe.seed}")


@contextlib.contextmanager
def _training_display() -> Iterator[Callable[[Any], None]]:
    """A live bar with speed, loss, accuracy and time left in a terminal; a line for each epoch everywhere."""
    if not sys.stderr.isatty():
        yield lambda state: None if state.epoch_rows is None else click.echo(_epoch_line(state))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=20), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("train", total=None, epoch="", numbers="")

        def observe(state: Any) -> None:
            numbers = (
                f"{state.images_per_second:.0f} images/s  loss {state.loss:.3f}  accuracy {state.accuracy:.1%}  "
                f"{_clock(state.seconds_left)} left"
            )
            epoch = f"{state.epoch}/{state.epochs}"
            bar.update(task, completed=state.step, total=state.steps, epoch=epoch, numbers=numbers)
            if state.epoch_rows is not None:
                console.print(_epoch_line(state), highlight=False)

        yield observe


def _epoch_line(state: Any) -> str:
    rows = state.epoch_rows.groupby(["indicator", "source"])["mean"].mean()
    parts = [
        f"epoch {state.epoch}/{state.epochs}",
        f"train loss {rows['loss', 'train']:.4f}",
        f"test loss {rows['loss', 'test']:.4f}",
        f"test accuracy {rows['accuracy', 'test']:.2%}",
        f"entropy {rows['attention_entropy', 'attention']:.3f}",
        f"{state.images_per_second:.0f} images/s",
        f"{_clock(state.seconds_left)} left",
    ]
    if ("effective_rank", "sigma") in rows.index:
        parts.insert(5, f"sigma rank {rows['effective_rank', 'sigma']:.1f}")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _print_analysis(analysis: Any, baseline: str | None, labels: dict[str, str]) -> None:
    from rich.console import Console

    from svda_analysis.compare import compare
    from svda_analysis.report import (
        accuracy_lines,
        comparison_tables,
        faithfulness_statements,
        layer_table,
        statements,
    )

    console = Console(highlight=False)
    for source in dict.fromkeys(run["data"] for run in analysis.meta["runs"]):
        console.print(f"data: {source}", markup=False)
    for line in dict.fromkeys(run["preprocessing"] for run in analysis.meta["runs"] if run["preprocessing"]):
        console.print(f"preprocessing: {line}", markup=False)
    for line in accuracy_lines(analysis.table):
        console.print(f"test accuracy, {line}", markup=False)
    if len(set(analysis.table["model"])) == 1:
        cells = layer_table(analysis.table, analysis.table["model"].iloc[0], labels)
        layers = list(cells.columns[2:])
        for at in range(0, len(layers), 8):  # as many layers as 80 columns hold
            block = cells[["Source", "Indicator", *layers[at : at + 8]]]
            console.print(_rich_table(block, "Mean over heads, by layer", "Source"))
        return
    comparison = compare(analysis.table, baseline)
    for (model, against), cells in comparison_tables(comparison, labels).items():
        several = set(cells["Runs"]) != {"1"}
        runs = "by training seed, p after Holm" if several else "one run each"
        shown = cells.drop(columns=["Effect", "Runs"] if several else ["Effect", "Runs", "p (Holm)"])
        shown = shown.rename(columns={"p (Holm)": "p"})
        console.print(_rich_table(shown, f"{model} against {against}, {runs}", "Source"))
    for line in [*statements(comparison, labels), *faithfulness_statements(comparison, labels)]:
        console.print(f"- {line}", markup=False)


def _smaller_files(checkpoints: list[Path], out: str | None, options: dict[str, Any]) -> list[Path]:
    """Where the smaller checkpoints go: ``svda_s0.pt`` -> ``svda_s0_l0.05.pt``; ``_e90`` for --energy 0.9, ``_b30`` for
    --budget 0.3, ``_t0.5`` for --tolerance 0.5. Beside the checkpoints, in the folder ``out``, or the file ``out``
    (of one checkpoint, unless a folder is there)."""
    if options["tolerance"] is not None:
        end = f"t{options['tolerance']:g}"
    elif options["budget"] is not None:
        end = f"b{100 * options['budget']:g}"
    elif options["energy"] is not None:
        end = f"e{100 * options['energy']:g}"
    else:
        end = f"l{0.05 if options['min_logit'] is None else options['min_logit']:g}"
    found = [path.with_name(f"{path.stem}_{end}.pt") for path in checkpoints]
    if out is not None:
        as_file = len(checkpoints) == 1 and not Path(out).is_dir()
        found = [Path(out)] if as_file else [Path(out) / path.name for path in found]
    if len(set(found)) < len(found):
        raise InputError(f"--out must be left out: {checkpoints[0].name} and another checkpoint would get one name")
    inputs = {path.resolve() for path in checkpoints}
    for target in found:
        if target.resolve() in inputs:
            raise InputError(f"--out must not be the checkpoint itself, nor another that is compressed, got {target}")
    return found


def _print_compression(runs: list[Any]) -> None:
    from rich.console import Console

    from svda_analysis.compression_report import by_model, verification_table

    console = Console(highlight=False)
    for line in dict.fromkeys(run.meta["data"] for run in runs):
        console.print(f"data: {line}", markup=False)
    for model, group in by_model(runs).items():
        gone = [sum(run.meta[name] for run in group) / len(group) for name in ("directions_removed", "rows_removed")]
        console.print(f"{model}: {gone[0]:.1%} of the score directions gone, {gone[1]:.1%} of the rows", markup=False)
        table = verification_table(group, indicators=False)
        console.print(_rich_table(table[[*table.columns[:5]]].assign(Source=""), "Before and after", "Source"))


def _rich_table(frame: Any, title: str, sections: str) -> Any:
    """A frame of text as a terminal table; the column named by ``sections`` becomes headings between the rows."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    shown = frame.drop(columns=sections)
    for at, column in enumerate(shown.columns):
        table.add_column(escape(str(column)), justify="left" if at == 0 else "right", no_wrap=at > 0)
    heading = None
    for at, row in enumerate(shown.itertuples(index=False)):
        if frame[sections].iloc[at] != heading:
            heading = frame[sections].iloc[at]
            table.add_row(f"[italic]{heading}[/]")
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


if __name__ == "__main__":
    main()
