"""The page's server: addresses, and what answers them."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import ipaddress
import secrets
import socket
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from costmodel.app import jobs, view
from costmodel.app.guard import LARGEST_BODY, Guard
from costmodel.app.plans import asked, plan_request
from costmodel.app.prediction import Predicted, predicted
from costmodel.app.state import PREFIXES, State, read_states
from costmodel.app.workers import MOST_WAITING, Busy, Workers
from costmodel.errors import InputError
from costmodel.reading import confined_to
from costmodel.records import ValueRecord, replace
from costmodel.result import SCHEMA
from costmodel.schema.assemble import Assembly
from costmodel.schema.files import imported_yaml
from costmodel.schema.loader import parse_tree, yaml_of
from costmodel.schema.model import ModelFile
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.version import __version__

KEPT = 512  # answers that are kept
CONNECTIONS = 256

Handler = Callable[[Request], Awaitable[Response]]


class Settings(ValueRecord):
    """How the page is served.

    token: null where only this machine can ask; names: further ones of the host; query: of the scenarios to begin with.
    """

    host: str = "127.0.0.1"
    port: int = 8421
    token: str | None = None
    names: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()
    workers: int | None = None
    query: str = ""

    @property
    def address(self) -> str:
        """Return the address to open."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        asked = "&".join(filter(None, (self.query, f"token={self.token}" if self.token else "")))
        return f"http://{host}:{self.port}/" + (f"?{asked}" if asked else "")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can ask there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_token(settings: Settings) -> Settings:
    """Return the same with a fresh token unless only this machine can ask."""
    return replace(settings, token=None if is_loopback(settings.host) else secrets.token_urlsafe(24))


class Page:
    """What answers. uploaded: folder of the models that were sent, which come first on the search path."""

    def __init__(self, settings: Settings, workers: Workers, uploaded: Path) -> None:
        self.uploaded = uploaded
        self.search_path = (str(uploaded), *settings.search_path)
        self.workers = workers
        self.catalogue = view.Catalogue(settings.search_path)
        self._kept: OrderedDict[State, Predicted] = OrderedDict()

    async def predictions(self, request: Request) -> list[Predicted]:
        """Return what is predicted of each scenario of an address, at once where that is known."""
        return list(await asyncio.gather(*map(self._predicted, self.states(request))))

    def states(self, request: Request) -> list[State]:
        """Return the scenarios of an address."""
        known = ("of_scenario", "kind", "add", "drop")
        return read_states(pair for pair in request.query_params.multi_items() if pair[0] not in known)

    def state(self, request: Request) -> State:
        """Return the scenario that `of_scenario` names, the first without it."""
        states, letter = self.states(request), request.query_params.get("of_scenario", view.LETTERS[0])
        number = view.LETTERS.index(letter) if letter in view.LETTERS else 0
        return states[min(number, len(states) - 1)]

    async def _predicted(self, state: State) -> Predicted:
        known = self._kept.get(state)
        if known is None:
            known = await self.workers.answer(predicted, state, self.search_path)
            self._kept[state] = known
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(state)
        return known

    async def shell(self, request: Request) -> Response:
        """Answer with the page. `add` copies the last scenario, `drop` leaves it out."""
        states = self.states(request)
        if "add" in request.query_params and len(states) < len(PREFIXES):
            states.append(states[-1])
        if "drop" in request.query_params and len(states) > 1:
            states.pop()
        return HTMLResponse(view.page(states, self.catalogue))

    async def plan(self, request: Request) -> Response:
        """Answer with the form of plans."""
        return HTMLResponse(view.plan_page(asked(request.query_params.multi_items()), self.catalogue))

    async def answer(self, request: Request) -> Response:
        """Answer a change of the controls."""
        return JSONResponse(view.answer(await self.predictions(request)))

    async def result(self, request: Request) -> Response:
        """Answer with the result file of all scenarios, as `simulate --json` prints one."""
        known = [(letter, one) for letter, one in zip(view.LETTERS, await self.predictions(request), strict=False)]
        fine = [(letter, one) for letter, one in known if one.document]
        if not fine:
            raise InputError(tuple(InputError.single(each.message).problems[0] for each in known[0][1].wrong))
        names = {letter: one.state.run if len(fine) == 1 else f"{one.state.run}-{letter}" for letter, one in fine}
        first = fine[0][1]
        document = {
            "schema": SCHEMA, "version": __version__, "seed": None, "engine": "analytic", "workload": first.state.of,
            "model": first.model, "scenarios": {names[letter]: one.document for letter, one in fine},
        }  # fmt: skip
        return JSONResponse(document, headers=_saved("result.json"))

    async def workload(self, request: Request) -> Response:
        """Answer with the workload file of one scenario."""
        one = await self._predicted(self.state(request))
        if one.wrong:
            raise InputError.single("; ".join(each.message for each in one.wrong))
        return PlainTextResponse(one.yaml, headers=_saved(f"{one.state.of}.yaml"))

    async def upload(self, request: Request) -> Response:
        """Take a model: a config.json or a model file, which the page may then choose by its name."""
        folder = self.uploaded / "workloads" / "models"
        if len(list(folder.glob("*.yaml"))) >= MOST_UPLOADS:
            raise InputError.single(f"{MOST_UPLOADS} models were sent already", hint="start the page anew")
        data = await request.body()
        name, text, notes = await self.workers.answer(import_model, data[:LARGEST_BODY])
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        self.catalogue.names["models"] = sorted({*self.catalogue.names["models"], name})
        return JSONResponse({"name": name, "notes": notes})

    async def start(self, request: Request) -> Response:
        """Start a long run of one scenario, or a plan."""
        pairs = request.query_params.multi_items()
        if ("kind", "plan") in pairs:
            wanted = plan_request([pair for pair in pairs if pair[0] != "kind"], self.search_path)
            job = self.workers.start(f"Plan of {wanted.model or wanted.clusters[0]}", jobs.plan, wanted)
            return JSONResponse({"key": job.key, "title": job.title}, status_code=201)
        title, function = jobs.run_named(request.query_params.get("kind", ""))
        job = self.workers.start(title, function, self.state(request), self.search_path)
        return JSONResponse({"key": job.key, "title": job.title}, status_code=201)

    async def run(self, request: Request) -> Response:
        """Answer how far a long run is, with its result where it is done."""
        known = self.workers.look(request.path_params["key"])
        if known is None:
            return JSONResponse({"error": "there is no such run, or no longer"}, status_code=404)
        job, share = known
        wrong = f'<p class="refused">{view.escaped(job.error)}</p>' if job.error else ""
        html = wrong or (view.run_markup(job.value) if job.done else "")
        drawn = view.run_figures(job.value) if job.done and not job.error else {}
        return JSONResponse({"title": job.title, "share": share, "done": job.done, "html": html, "figures": drawn})

    async def cancel(self, request: Request) -> Response:
        """End a long run."""
        self.workers.forget(request.path_params["key"])
        return JSONResponse({})


def _saved(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _answering(handler: Handler) -> Handler:
    """Return a handler whose errors are answers: wrong input, or too much at once."""

    async def answering(request: Request) -> Response:
        try:
            return await handler(request)
        except InputError as error:
            said = {"error": "; ".join(map(str, error.problems)), "field": error.problems[0].field.lstrip("-")}
            return JSONResponse(said, status_code=400)
        except Busy:
            busy = f"{MOST_WAITING} answers are awaited already: ask again in a second"
            return JSONResponse({"error": busy}, status_code=503, headers={"retry-after": "1"})
        except ClientDisconnect:
            return JSONResponse({"error": f"sends more than {LARGEST_BODY // 2**10} KiB"}, status_code=413)

    return answering


def _static(text: Callable[[], str | bytes], kind: str) -> Handler:
    """Return a handler of a file of the package, which browsers keep: its address has the version."""
    content = text()

    async def static(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "public, max-age=86400"})

    return static


def plotly() -> bytes:
    """Return Plotly's script from its package."""
    return files("plotly").joinpath("package_data/plotly.min.js").read_bytes()


def create(settings: Settings) -> Starlette:
    """Return the page as an ASGI application, which holds its workers while it runs."""
    folder = tempfile.TemporaryDirectory(prefix="costmodel-app-")
    uploaded = Path(folder.name)
    (uploaded / "workloads" / "models").mkdir(parents=True)
    workers = Workers((str(uploaded), *settings.search_path), settings.workers)
    page = Page(settings, workers, uploaded)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with folder, workers:
            yield

    routes: Sequence[tuple[str, str, Handler]] = [
        ("/", "GET", page.shell), ("/plan", "GET", page.plan), ("/answer", "GET", page.answer),
        ("/result.json", "GET", page.result),
        ("/workload.yaml", "GET", page.workload), ("/models", "POST", page.upload), ("/runs", "POST", page.start),
        ("/runs/{key}", "GET", page.run), ("/runs/{key}", "DELETE", page.cancel),
        ("/app.css", "GET", _static(view.stylesheet, "text/css")),
        ("/app.js", "GET", _static(view.script, "text/javascript")),
        ("/plotly.js", "GET", _static(plotly, "text/javascript")),
    ]  # fmt: skip
    names = ("localhost", socket.gethostname(), *settings.names)
    return Starlette(
        routes=[Route(path, _answering(handler), methods=[method]) for path, method, handler in routes],
        middleware=[
            Middleware(Guard, token=settings.token, names=names), Middleware(GZipMiddleware, minimum_size=2000),
        ],
        lifespan=lifespan,
    )  # fmt: skip


def serve(settings: Settings, listening: socket.socket) -> None:
    """Serve the page until it is interrupted."""
    gc.enable()  # the command line, which ends soon, goes without
    config = uvicorn.Config(
        create(settings), http="h11", ws="none", log_level="warning", limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def listen(settings: Settings) -> tuple[Settings, socket.socket]:
    """Return a socket at the address, and the settings with its port. Raises InputError where it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(CONNECTIONS)  # who asks before the page is there waits for it
    except OSError as error:
        listening.close()
        message = f"cannot listen at {settings.host}:{settings.port}: {error.strerror}"
        raise InputError.single(message, hint="choose another --port, 0 for any", field="--port") from None
    return replace(settings, port=listening.getsockname()[1]), listening


# ---- Models that a browser sends: read from their bytes, written out again by this program under a name of its own.

MOST_UPLOADS = 64


def import_model(data: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Return the name, the file and notes on a model that a browser sends, as a config.json or as YAML.

    Raises InputError where it is neither, or names another file.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError.single("is not UTF-8 text", hint="send a config.json or a model's YAML") from None
    name = f"uploaded-{hashlib.sha256(data).hexdigest()[:12]}"
    if text.lstrip().startswith("{"):
        with tempfile.TemporaryDirectory() as folder, confined_to(folder):
            file = Path(folder) / "config.json"
            file.write_text(text, encoding="utf-8")
            said = {
                "name": name,
                "sources": [{"fields": ["hidden", "layers"], "cite": "sent to the page", "kind": "derived"}],
            }
            written, notes = imported_yaml(file, stated=said)
            return name, written, tuple(note.replace(str(file), "config.json") for note in notes)
    tree = parse_tree(text, "the file")
    _check(tree)
    assembly = Assembly(Library())
    with assembly.raising_problems():
        assembly.part(ModelFile, tree.without("schema")).require()
        named = tree.without("schema", "aliases").with_entries(name=Tree(name))
        return name, yaml_of(named, "model"), ()


def _check(tree: Tree) -> None:
    """Raise InputError where a document is no model, or rests on another file."""
    if not tree.is_mapping or tree.text("schema") != "costmodel/model@1":
        hint = "send a file with `schema: costmodel/model@1`, or a config.json"
        raise InputError.single("this is no model", hint=hint, location=tree.location)
    if tree.child("extends") is not None:
        raise InputError.single(
            "names another file, which a page does not read", hint="send the whole model", field="extends",
            location=tree.location,
        )  # fmt: skip
