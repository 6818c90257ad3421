"""What a wrong command line meant: its refusal names the option, the argument or the setting that was wanted."""

from __future__ import annotations

import re

import click

# Words for a machine and for a model that people write as options.
_MACHINE = frozenset(
    ("gpu", "gpus", "device", "devices", "hardware", "node", "nodes", "machine", "system", "accelerator", "on")
)
_MODEL = frozenset(("model", "model_name", "workload", "network"))
_ALIKE = 0.7  # of two words, from where one may be the other misspelt
_KINDS = ("nodes/", "clusters/", "devices/")
_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)


def explained(error: click.ClickException) -> click.ClickException:
    """Return an error of the command line with what was meant; one that needs no more is returned as it is."""
    context = getattr(error, "ctx", None)
    if context is None:
        return error
    if isinstance(error, click.NoSuchOption):
        said = _meant(error.option_name.lstrip("-").replace("-", "_").lower(), context)
        return click.UsageError(f"No such option '{error.option_name}'{said}", context)
    if isinstance(error, click.MissingParameter):
        return _with_all_missing(context)
    extra = _EXTRA.fullmatch(error.message)
    if extra and extra[1].startswith(_KINDS) and "--cluster" in _options(context):
        return click.UsageError(f"{error.message}: a machine is an option; --cluster {extra[1]}", context)
    return error


def _options(context: click.Context) -> list[str]:
    return [name for each in context.command.get_params(context) for name in each.opts if name.startswith("--")]


def _meant(word: str, context: click.Context) -> str:
    """Return what an unknown option is instead: another option, an argument, a setting of a scenario, or a near one."""
    import difflib

    options = _options(context)
    machine = next((name for name in ("--ranks", "--cluster") if name in options), None)
    if word in _MACHINE and machine is not None:
        return f": write {machine} {'8' if machine == '--ranks' else 'nodes/dgx-h100'} (`costmodel hardware list`)"
    arguments = [each for each in context.command.get_params(context) if isinstance(each, click.Argument)]
    if word in _MODEL and arguments:
        return f": it is the argument; {context.command_path} llama-3-8b"
    near = difflib.get_close_matches(word, [name[2:].replace("-", "_") for name in options], 1, _ALIKE)
    if near:
        return f"; did you mean `--{near[0].replace('_', '-')}`?"
    if "--set" in options:
        from costmodel.schema.workload import scenario_key

        key = scenario_key(word)
        if key is not None:
            return f": it is a setting of a scenario; --set scenarios.NAME.{key}=…"
    return f"; `{context.command_path} --help` lists all"


def _with_all_missing(context: click.Context) -> click.ClickException:
    """Return an error that names all that is missing together: click takes what is given first."""
    wanted = (each for each in context.command.get_params(context) if each.required)
    missing = [each for each in wanted if each.name not in context.params]
    named = ", ".join(each.get_error_hint(context) for each in missing)
    if len(missing) == 1 and isinstance(missing[0], click.Option):
        named += f", {missing[0].make_metavar(context)}: {missing[0].help}"
    return click.UsageError(f"Missing {named.rstrip('.')}.", context)
