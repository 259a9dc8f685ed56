"""The HTTP interface of a model: what is accepted, what is refused and why, and what is counted."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .. import __version__
from .arguments import ServeArguments
from .batching import Batcher, QueueFull
from .predictor import Predictor

MOST_OF_TEXTS, MOST_OF_FILES = 2**20, 2**24  # bytes of a body, where the server is not told
DISCARDED = 8  # a body so many times too large is read to its end, so that the client reads why it was refused
PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
# A page runs its own script and style, and asks this server; nothing is loaded from elsewhere.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REFUSALS = {
    400: "the body is not JSON in UTF-8",
    408: "the body did not arrive in time",
    413: "the body, or the number of texts, is too large",
    415: "the body is compressed",
    422: "the fields or the texts are wrong",
    500: "the model failed at these texts",
    503: "too many texts wait; Retry-After says when to ask again",
    504: "there was no answer in time",
}
# Mistakes in the fields of a body, by the names of pydantic.
MISTAKES = {
    "missing": "is missing",
    "extra_forbidden": "is no field of it",
    "model_type": "is no object",
    "string_type": "is no text",
    "list_type": "is no list",
}
PREFIX, SIZES = "hf_selfattn", [2**power for power in range(9)]
Result = TypeVar("Result")


class Refusal(Exception):
    """A request that is not answered, with a status code and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def as_rows(value: Any) -> Any:
    """Return texts and rows, one or a list of them, as a list of rows."""
    values = value if isinstance(value, list) else [value]
    return [{"text": item} if isinstance(item, str) else item for item in values]


def mistake_in_words(mistake: Mapping[str, Any]) -> str:
    """Return where a mistake of pydantic is, and what it is."""
    place = ".".join(map(str, mistake["loc"])) or "the body"
    also = "no text and " if mistake["type"] == "model_type" and mistake["loc"] else ""
    return f"{place} {MISTAKES.get(mistake['type'], mistake['msg']).replace('is no', f'is {also}no')}"


class InputRow(BaseModel):
    """A text, a pair of texts, words, or an image or sound: its file in base64, or as an address `data:`."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    text_pair: str | None = None
    tokens: list[str] | None = None
    image: str | None = None
    sound: str | None = None


class Question(BaseModel):
    """What a client asks: a text, a row, or a list of these. A model of images wants `{"image": BASE64}`, one
    of sounds `{"sound": BASE64}`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": ["A warm, funny film.", "Dull."]}]}
    )

    inputs: Annotated[
        list[InputRow], BeforeValidator(as_rows, json_schema_input_type=str | InputRow | list[str | InputRow])
    ]


class Reply(BaseModel):
    """The answers, in the order of the inputs."""

    answers: list[dict[str, Any]]


class Measures:
    """What is counted, for Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(f"{PREFIX}_requests", "Requests, by status code.", ["status"], registry=registry)
        self.accepted = Counter(f"{PREFIX}_accepted", "Requests that waited for the model.", registry=registry)
        self.replied = Counter(f"{PREFIX}_replied", "Those of them that got a reply.", registry=registry)
        self.texts = Counter(f"{PREFIX}_texts", "Texts that the model answered.", registry=registry)
        self.seconds = Histogram(f"{PREFIX}_request_seconds", "From a request to its reply.", registry=registry)
        self.batch = Histogram(f"{PREFIX}_batch_texts", "Texts at once.", buckets=SIZES, registry=registry)
        self.batch_seconds = Histogram(f"{PREFIX}_batch_seconds", "Time of a batch.", registry=registry)
        self.waiting = Gauge(f"{PREFIX}_waiting_texts", "Texts that wait for the model.", registry=registry)

    def story(self) -> str:
        """Return what became of the requests, in words."""
        counts = (self.registry.get_sample_value(f"{PREFIX}_{name}_total") or 0 for name in ("accepted", "replied"))
        return "{:.0f} requests were accepted, and {:.0f} got a reply".format(*counts)

    def batch_done(self, texts: int, seconds: float) -> None:
        """Count a batch."""
        self.texts.inc(texts)
        self.batch.observe(texts)
        self.batch_seconds.observe(seconds)


class Service:
    """Answers requests by a model.

    Args:
        predictor: answers rows.
        limits: what a request may be.

    Attributes:
        is_ending: whether the server is about to end, and load balancers shall ask others.
    """

    def __init__(self, predictor: Predictor, limits: ServeArguments) -> None:
        self.predictor, self.limits, self.measures, self.is_ending = predictor, limits, Measures(), False
        self.medium = None if predictor.kind.medium is None else predictor.kind.medium.name
        self.max_body = limits.max_body or (MOST_OF_FILES if self.medium else MOST_OF_TEXTS)
        self.batcher = Batcher(
            predictor.answers,
            tokens=limits.batch_tokens,
            most_waiting=limits.max_waiting,
            window=limits.window / 1000,
            watch=self.measures.batch_done,
        )
        self.measures.waiting.set_function(lambda: self.batcher.waiting)

    @property
    def is_ready(self) -> bool:
        """Whether requests shall come here."""
        return self.batcher.is_running and not self.is_ending and self.batcher.waiting < self.limits.max_waiting

    async def respond(self, request: Request) -> Response:
        """Return the answers to a request, or why there are none."""
        started = time.perf_counter()
        headers = {"X-Content-Type-Options": "nosniff"}
        try:
            content: dict[str, Any] = {"answers": await self.answers(request)}
            status = 200
        except Refusal as refusal:
            status, content = refusal.status, {"error": str(refusal)}
            headers |= {"Retry-After": "1"} if status == 503 else {}
        headers |= {"Connection": "close"} if self.is_ending else {}
        self.measures.requests.labels(status).inc()
        self.measures.seconds.observe(time.perf_counter() - started)
        return JSONResponse(content, status, headers)

    async def answers(self, request: Request) -> list[dict[str, Any]]:
        """Return the answers to a request.

        Raises:
            Refusal: says why there are none.
        """
        most = self.limits.timeout
        body = await in_time(read_body(request, self.max_body), most, 408, "the body did not arrive")
        rows = self.rows(body)
        try:
            answers = self.batcher.enter(rows)
        except QueueFull as error:
            raise Refusal(503, f"{error}. Ask again later.") from error
        self.measures.accepted.inc()
        refusal = None
        try:
            found = await in_time(answers, most, 504, "there was no answer")
        except Refusal as error:
            refusal = error
        except Exception as error:
            refusal = Refusal(500, f"the model failed: {type(error).__name__}: {error}")
        self.measures.replied.inc()
        if refusal is not None:
            raise refusal
        return found

    def rows(self, body: bytes) -> list[dict[str, Any]]:
        """Return the rows that a body asks about, checked."""
        try:
            question = Question.model_validate(json.loads(body.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise Refusal(400, f"the body is not UTF-8: byte {error.start + 1} is {body[error.start]:#04x}") from error
        except ValidationError as error:
            found = map(mistake_in_words, error.errors()[:3])
            wanted = f'{{"{self.medium}": BASE64}}' if self.medium else "TEXT"
            raise Refusal(422, f'{"; ".join(found)}. Send {{"inputs": [{wanted}, …]}}.') from error
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}") from error
        if not 1 <= len(question.inputs) <= self.limits.max_texts:
            status = 413 if question.inputs else 422
            raise Refusal(status, f"{len(question.inputs)} texts; a request has 1 to {self.limits.max_texts}")
        rows = []
        for number, row in enumerate(question.inputs):
            try:
                json.dumps(given := row.model_dump(exclude_none=True), ensure_ascii=False).encode()
                rows.append(self.predictor.checked(with_files(given)))
            except UnicodeEncodeError as error:
                raise Refusal(422, f"inputs.{number}: half of a surrogate pair, which is no character") from error
            except ValueError as error:
                raise Refusal(422, f"inputs.{number}: {error}") from error
        return rows


def with_files(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the bytes of its image, or sound, where it has one."""
    files = {}
    for name in row.keys() & {"image", "sound"}:
        try:
            content = base64.b64decode(row[name].removeprefix("data:").rpartition("base64,")[2], validate=True)
        except ValueError as error:
            raise ValueError(f"'{name}': no base64: {error}.") from error
        files[name] = {"bytes": content, "path": None}
    return {**row, **files}


async def in_time(work: Awaitable[Result], seconds: float, status: int, complaint: str) -> Result:
    """Return what a piece of work gives, or refuse the request when it takes longer."""
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError as error:
        raise Refusal(status, f"{complaint} in {seconds:g} seconds") from error


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request, no more of which is kept than may be."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, f"the body is in {request.headers['content-encoding']}. Send it uncompressed.")
    body, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            body += chunk if size <= most else b""
            if size > DISCARDED * most:
                break
    except ClientDisconnect as error:
        raise Refusal(400, "the client left before its body was whole") from error
    if size > most:
        raise Refusal(
            413,
            f"the body has more than {most:,} bytes. Send less at once, or give the server a larger max_body.",
        )
    return bytes(body)


def create_app(predictor: Predictor, limits: ServeArguments, name: str) -> FastAPI:
    """Return the application; `app.state.service` answers.

    Args:
        predictor: answers rows.
        limits: what a request may be.
        name: of the model, as its users shall see it.
    """
    service = Service(predictor, limits)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.stop()

    what = f"{service.medium.title()}s in base64." if service.medium else "Texts of any length; nothing is cut."
    about = f"The model {name} for {predictor.name}. {what}"
    app = FastAPI(
        title="hf-selfattn", version=__version__, description=about, lifespan=running, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.exception_handler(HTTPException)(wrong_address)
    said: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in REFUSALS.items()}
    schema = Question.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs")
    body = {"content": {"application/json": {"schema": schema}}, "required": True}

    @app.post("/predict", response_model=Reply, responses=said, openapi_extra={"requestBody": body})
    async def predict(request: Request) -> Response:
        """Answer a text, or several; requests that arrive together are answered together."""
        return await service.respond(request)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process is alive, and what it serves."""
        return {"status": "ok", "model": name, "task": predictor.name, "version": __version__}

    @app.get("/ready", responses={503: {"description": "too many texts wait, or the server ends"}})
    async def ready() -> Response:
        """Say whether requests shall come here."""
        return PlainTextResponse("ready" if service.is_ready else "not ready", 200 if service.is_ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Give counts and times for Prometheus."""
        return Response(generate_latest(service.measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """Show the page to try the model."""
        return as_page("page.html", name=name, task=predictor.name, medium=service.medium, pairs=predictor.kind.pairs)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """Show what `openapi.json` says, without anything from another host."""
        return as_page("docs.html", api=app.openapi(), url=str(request.base_url))

    app.openapi()["components"]["schemas"].update(parts)
    return app


async def wrong_address(request: Request, error: HTTPException) -> Response:
    """Say what is wrong with a path or a method as with a body."""
    return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)


def as_page(template: str, **values: Any) -> HTMLResponse:
    """Return a page that loads nothing from elsewhere."""
    return HTMLResponse(PAGES.get_template(template).render(values), headers={"Content-Security-Policy": POLICY})
