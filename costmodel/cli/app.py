"""`costmodel app`: the local page."""

from __future__ import annotations

import click

from costmodel.cli.options import path_option
from costmodel.errors import InputError
from costmodel.schema.references import Library


@click.command("app")
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; others than loopback need the token that is printed.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8421, show_default=True, help="Port to listen at, 0 for any."
)
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="Name of this machine by which browsers ask. Repeatable."
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@path_option
def command(
    *, workloads: tuple[str, ...], host: str, port: int, names: tuple[str, ...], opens: bool,
    search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Serve a page on this machine on which models, clusters, layouts and loads are controls.

    It begins with up to three models or workloads of the catalogue, and answers while you change them, with the
    command and the file that give the same answer. It needs no network.
    """
    try:
        from costmodel.app.workers import preload

        preload()
        from costmodel.app.server import Settings, listen, serve, with_token
        from costmodel.app.state import address, of_names
    except ModuleNotFoundError as error:
        hint = "pip install 'costmodel[app]'"
        raise InputError.single(f"the page needs {error.name}, which is not installed", hint=hint) from None
    query = address(of_names(workloads, Library(search_path)))
    settings, listening = listen(with_token(Settings(host, port, None, names, search_path, query=query)))
    click.echo(f"{settings.address} (Ctrl+C ends it)")
    if opens:
        click.launch(settings.address)
    serve(settings, listening)
    return 0
