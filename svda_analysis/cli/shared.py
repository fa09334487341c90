"""What several commands share: options, how words become values, the command as it was given."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from svda_analysis.errors import InputError, one_line

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
Command = TypeVar("Command", bound=Callable[..., Any])


class Registered(click.Choice[str]):
    """A choice among the names of a registry, as it is when the command runs: what was registered since is one too."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self._registry = registry
        super().__init__(())

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self._registry)

    @choices.setter
    def choices(self, given: Any) -> None:
        """click sets them once; the registry says them."""


class DataOption(click.Option):
    """An option that names a data set: ``{names}`` in its help are those that there are when the help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from svda_analysis.data.catalog import dataset_names

        record = super().get_help_record(ctx)
        *first, last = dataset_names()
        return record and (record[0], record[1].replace("{names}", f"{', '.join(first)} or {last}"))


def grouped(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in that order in the help."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_DATA = "{names}. Default: what the checkpoint was trained on."
data_options = grouped(  # which images
    click.option("--data", metavar="NAME", cls=DataOption, help=_DATA),
    click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA."),
)
subject_options = grouped(  # how each model is opened: open_subjects takes them
    click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... Default: cuda where there is one."),
    click.option("--grid", metavar="RxC", help="Rows and columns of patches like 14x14, if the model hides them."),
    click.option("--prefix-tokens", type=int, metavar="N", help="Tokens before the first patch, likewise."),
    click.option("--suffix-tokens", type=int, metavar="N", help="Tokens behind the last patch, likewise."),
    click.option("--frames", type=int, metavar="N", help="Steps in time of a video, likewise."),
    click.option(
        "--preprocess",
        multiple=True,
        metavar="KEY=VALUE",
        help="image_size, resize, interpolation, mean or std of images.",
    ),
    click.option(
        "--text", multiple=True, metavar="TEXT", help="Of CLIP and the like (hf:FOLDER): compare images with it."
    ),
)


open_option = click.option("--open", "opened", is_flag=True, help="Open the report's page in a browser.")


def open_subjects(specs: Sequence[str], options: dict[str, Any]) -> list[Any]:
    """The subjects that ``specs`` name, each with what :func:`subject_options` took out of ``options``."""
    from svda_analysis.specs import open_model
    from svda_analysis.tokens import parse_grid

    words, texts = options.pop("preprocess"), options.pop("text")
    grid = options.pop("grid")
    found = {name: options.pop(name) for name in ("device", "prefix_tokens", "suffix_tokens", "frames")}
    found["grid"] = None if grid is None else parse_grid(grid)
    changes = {name: value for name, value in found.items() if value is not None}
    if texts:
        changes["text"] = texts
    if words:
        changes["preprocessing"] = _preprocessing(words)
    return [open_model(spec, **changes) for spec in specs]


def _preprocessing(words: Sequence[str]) -> dict[str, Any]:
    """The fields of a model's preprocessing that are to change."""
    given: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            if key in ("image_size", "resize"):
                height, cross, width = value.partition("x")
                given[key] = (int(height), int(width)) if cross else int(height)
            elif key in ("mean", "std"):
                given[key] = tuple(float(x) for x in value.split(","))
            elif key == "interpolation" and value in ("nearest", "bilinear", "bicubic"):
                given[key] = value
            else:
                raise ValueError
        except ValueError:
            allowed = "image_size=224, image_size=32x64, resize=256, interpolation=bicubic, mean=0.5,0.5,0.5 or std=0.5"
            raise InputError(f"--preprocess must be like {allowed}, got {word!r}") from None
    return given


def names_in(text: str | None) -> list[str] | None:
    """``"a, b"`` as a list; None stays None."""
    return [name.strip() for name in text.split(",")] if text is not None else None


def command_line(program: str) -> str:
    """The command as it was given, to be written into what it makes."""
    arguments = list(click.get_current_context().obj or [])
    if program == "svda-analyze" and arguments[:1] == ["analyze"]:
        arguments = arguments[1:]
    return shlex.join([program, *arguments])


def say(line: str, *, err: bool = False) -> None:
    """One line for a terminal; names in it that hold control characters are written out."""
    click.echo(one_line(line), err=err)


def show_report(written: Sequence[Path], *, opened: bool = False) -> None:
    """Name the page of a report, which people open, as the last line of a command; ``opened``: open it, too."""
    page = next(path for path in written if path.suffix == ".html")
    say(f"report: {page} ({len(written)} files)")
    if opened:
        import webbrowser  # it takes a tenth of what all of --help takes

        webbrowser.open(page.resolve().as_uri())


def warn(lines: Sequence[str]) -> None:
    """Warnings go to stderr, each once."""
    for line in dict.fromkeys(lines):
        say(f"warning: {line}", err=True)


def split_settings(settings: Sequence[str], given: dict[str, Any], *classes: type) -> list[dict[str, Any]]:
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
            near = difflib.get_close_matches(key, every, 1)
            hint = f"did you mean {near[0]}?" if near else "--list-settings lists them"
            raise InputError(f"--set must name a field of the model or the recipe, got {key!r}: {hint}")
        field, at = every[key]
        found[at][key] = _parse(field, value) if isinstance(value, str) else value
    return found


def list_settings(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    """Print every field that ``--set`` reaches, with its default, and end."""
    if not asked:
        return
    from svda_analysis.model import ViTConfig
    from svda_analysis.recipe import TrainConfig

    for title, cls in (("model", ViTConfig), ("recipe", TrainConfig)):
        say(f"{title}:")
        for field in dataclasses.fields(cls):
            click.echo(f"  {field.name} = {field.default if field.default is not dataclasses.MISSING else '(needed)'}")
    ctx.exit()


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
