"""What several commands share: options, how words become values, the command as it was given."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from svda_analysis.bars import are_several, is_first
from svda_analysis.errors import HaltedError, InputError, one_line

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


def open_subjects(
    specs: Sequence[str], options: dict[str, Any], progress: Callable[[str, int, int], None] | None = None
) -> list[Any]:
    """The subjects that ``specs`` name, those of all checkpoints in one that is a folder, each with what
    :func:`subject_options` took out of ``options``."""
    if progress:
        progress("loading", 0, len(specs))  # torch, too
    from svda_analysis.specs import open_model
    from svda_analysis.tokens import parse_grid

    words, texts = options.pop("preprocess"), options.pop("text")
    grid = options.pop("grid")
    said = {name: options.pop(name) for name in ("device", "prefix_tokens", "suffix_tokens", "frames")}
    said["grid"] = None if grid is None else parse_grid(grid)
    changes = {name: value for name, value in said.items() if value is not None}
    if texts:
        changes["text"] = texts
    if words:
        changes["preprocessing"] = _preprocessing(words)
    found: list[Any] = []
    for at, spec in enumerate(specs, start=1):
        found += [open_model(given, **changes) for given in _within(spec)]
        if progress:
            progress("loading", at, len(specs))
    return found


def _within(spec: str) -> list[Any]:
    """A spec, or the checkpoints of a folder, opened; of those that are left out there is a warning."""
    if not Path(spec).is_dir():
        return [spec]
    from svda_analysis.specs import open_folder

    found, left_out = open_folder(spec)
    warn(left_out)
    return found


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


# --- what a command prints --------------------------------------------------------------------------------------------

_JSON, _QUIET, _WARNINGS = (
    f"svda_analysis.{word}" for word in ("json", "quiet", "warnings")
)  # in the context of click


def _remember(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[f"svda_analysis.{option.name}"] = value


output_options = grouped(  # what say, show and conclude go by
    click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Print the result as JSON, and nothing else, on stdout.",
    ),
    click.option(
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Print only what was made and where it lies; no progress.",
    ),
)


@contextlib.contextmanager
def resumable(command: str) -> Iterator[None]:
    """Where Ctrl-C comes, a command ends with the line that goes on with its work."""
    try:
        yield
    except KeyboardInterrupt:
        raise HaltedError(f"interrupted; what is done is kept, go on with: {command}", 130) from None


@contextlib.contextmanager
def several_together() -> Iterator[None]:
    """All processes that torchrun started, each with its own device; for one alone nothing."""
    if not are_several():
        yield
        return
    from svda_analysis.team import together

    with together():
        yield


def _meta() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return {} if context is None else context.meta


def is_quiet() -> bool:
    """Whether a command is to say nothing before its end."""
    return bool(_meta().get(_QUIET)) or not is_first()


def speaks() -> bool:
    """Whether a command says more than its result."""
    return not is_quiet() and not _meta().get(_JSON)


def say(line: str) -> None:
    """One line for people, who may have asked for none; names in it that hold control characters are written out."""
    if speaks():
        click.echo(one_line(line))


def show(document: Any) -> None:
    """A document for people, likewise."""
    if speaks():
        from svda_analysis.render.terminal import print_document

        print_document(document)


def warn(lines: Sequence[str]) -> None:
    """Warnings go to stderr, each once, whatever was asked for; a result as JSON holds them too."""
    for line in dict.fromkeys(lines):
        _meta().setdefault(_WARNINGS, []).append(line)
        if is_first():
            click.echo(one_line(f"warning: {line}"), err=True)


def conclude(lines: str | Sequence[str], result: Mapping[str, Any]) -> None:
    """The end of a command: what was made and where it lies in ``lines``, or as JSON ``result`` with its warnings."""
    if not _meta().get(_JSON):
        for line in [lines] if isinstance(lines, str) else lines:
            click.echo(one_line(line))
        return
    found = {**result, "warnings": list(dict.fromkeys(_meta().get(_WARNINGS, [])))}
    click.echo(json.dumps(as_plain(found), indent=2, allow_nan=False))


def as_plain(value: Any) -> Any:
    """A value as JSON holds it: frames as lists of rows, paths and other objects as text, numbers that are not finite
    as null."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(held) for key, held in value.items()}
    if hasattr(value, "to_dict"):  # a frame of pandas
        return as_plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # an array or a number of numpy
        return as_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [as_plain(held) for held in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else _as_text(value)


def _as_text(value: Any) -> str | None:
    return None if str(value) == "<NA>" else str(value)  # how pandas says that something is missing


def report_result(written: Sequence[Path]) -> dict[str, Any]:
    """What JSON says of a report: its page, and all of its files."""
    return {"report": page_of(written), "files": list(written)}


def page_of(written: Sequence[Path]) -> Path:
    """The page of a report, which people open, among its files."""
    return next(path for path in written if path.suffix == ".html")


def conclude_report(
    written: Sequence[Path], result: Mapping[str, Any] | None = None, *, opened: bool = False, lines: Sequence[str] = ()
) -> None:
    """:func:`conclude` with the page of a report as the last line; ``opened``: open it, too."""
    page = page_of(written)
    conclude([*lines, f"report: {page} ({len(written)} files)"], {**(result or {}), **report_result(written)})
    if opened:
        open_page(page)


def open_page(page: Path) -> None:
    """Open a page in a browser."""
    import webbrowser  # it takes a tenth of what all of --help takes

    webbrowser.open(page.resolve().as_uri())


def split_settings(
    settings: Sequence[str], given: dict[str, Any], *classes: type, named: Collection[str] = ()
) -> list[dict[str, Any]]:
    """``KEY=VALUE`` words and options, sorted into the fields of each class and read as the field's type.

    A word takes the place of an option that has its usual value. Raises :class:`InputError` for one that says a field
    again whose option is ``named`` on the command line, and for one that names no field."""
    found: list[dict[str, Any]] = [{} for _ in classes]
    words: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set must be KEY=VALUE, got {word!r}")
        if key in named:
            both = f"--{key} {given[key]} and --set {word}"
            raise InputError(f"--set {key} must be left out where --{key} is given, got {both}")
        words[key] = value
    every = {field.name: (field, at) for at, cls in enumerate(classes) for field in _settable(cls)}
    for key, value in {**given, **words}.items():
        if key not in every:
            near = difflib.get_close_matches(key, every, 1)
            hint = f"did you mean {near[0]}?" if near else "--list-settings lists them"
            raise InputError(f"--set must name a field of the model or the recipe, got {key!r}: {hint}")
        field, at = every[key]
        found[at][key] = _parse(field, value) if isinstance(value, str) else value
    return found


def list_settings(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    """Print every field that ``--set`` reaches, with its default, what differs with ``--base``, and end."""
    if not asked:
        return
    from svda_analysis.model import ViTConfig
    from svda_analysis.recipe import TrainConfig, late_blocks_recipe

    for title, cls in (("model", ViTConfig), ("recipe", TrainConfig)):
        say(f"{title}:")
        for field in _settable(cls):
            click.echo(f"  {field.name} = {field.default if field.default is not dataclasses.MISSING else '(needed)'}")
    say("dataset, attention, seed and epochs have options of their own: where one is given, --set must not name it")
    say("with --base, where that is other:")
    for fields in late_blocks_recipe("ours"):
        for name, value in fields.items():
            click.echo(f"  {name} = {value}")
    ctx.exit()


def _settable(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields of a config that one word can hold."""
    return [field for field in dataclasses.fields(cls) if "tuple" not in str(field.type)]


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
    if default is None and text.lower() == "none":  # as --list-settings shows it
        return None
    try:
        return int(text) if default is None else type(default)(text)  # type: ignore[misc]  # int or float
    except ValueError:
        allowed = "a whole number or none" if default is None else f"a number like {default!r}"
        raise InputError(f"{field.name} must be {allowed}, got {text!r}") from None
