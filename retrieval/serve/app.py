"""The application: from a request to an answer of the finder, or to a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clipfleet.errors import ClipfleetError, ItemError, TransientError, UsageError
from clipfleet.retrieval.serve.finder import Answer, Finder, UnknownRowError
from clipfleet.retrieval.serve.pictures import Pictures

MAX_HITS = 200
MAX_TEXT_LENGTH = 1000  # characters; a model reads about the first fifty
MAX_UPLOAD_BYTES = 32 << 20
_PAGE = Path(__file__).parent / "page"
_STATUS = {  # of an error; the first class that fits
    UnknownRowError: HTTPStatus.NOT_FOUND,
    ItemError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UsageError: HTTPStatus.BAD_REQUEST,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
    ClipfleetError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


Decode = Callable[[bytes, str], Image.Image]  # of an upload and its name; raises `ItemError`


def create_app(
    finder: Finder, pictures: Pictures, decode: Decode, about: dict[str, Any]
) -> Starlette:
    """Return the application of an index.

    `decode` returns the picture of an upload. `about` is what the page says of the index.
    """
    handlers = _Handlers(finder=finder, pictures=pictures, decode=decode, about=about)
    return Starlette(
        routes=[
            Route("/about", handlers.get_about),
            Route("/sample", handlers.get_sample),
            Route("/search", handlers.get_search),
            Route("/search", handlers.post_search, methods=["POST"]),
            Route("/picture/{row:int}", handlers.get_picture),
            Route("/file/{row:int}", handlers.get_file),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        exception_handlers={ClipfleetError: _failed, HTTPException: _refused},
    )


@dataclass(frozen=True, kw_only=True)
class _Handlers:
    """The answers to requests; Starlette runs those that are not `async` in threads."""

    finder: Finder
    pictures: Pictures
    decode: Decode
    about: dict[str, Any]

    def get_about(self, _: Request) -> Response:
        return JSONResponse(self.about | {"has_model": self.finder.model is not None})

    def get_sample(self, request: Request) -> Response:
        return _json(self.finder.sample(_hits_asked(request)))

    def get_search(self, request: Request) -> Response:
        k = _hits_asked(request)
        if "row" in request.query_params:
            return _json(self.finder.by_row(_number(request, "row"), k))
        text = request.query_params.get("text", "")
        if len(text) > MAX_TEXT_LENGTH:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST,
                f"the text has {len(text)} characters, more than {MAX_TEXT_LENGTH}",
            )
        return _json(self.finder.by_text(text, k))

    async def post_search(self, request: Request) -> Response:
        """Search by the picture whose file is the request's body."""
        k = _hits_asked(request)
        data = await _body(request)

        def search() -> Answer:
            return self.finder.by_picture(lambda: self.decode(data, "the picture"), k)

        return _json(await run_in_threadpool(search))

    def get_picture(self, request: Request) -> Response:
        thumbnail = self.pictures.thumbnail(self._uri(request))
        return Response(thumbnail, media_type="image/jpeg")

    def get_file(self, request: Request) -> Response:
        uri = self._uri(request)
        data, media_type = self.pictures.file(uri)
        name = quote(uri.rpartition("/")[2], safe="")
        headers = {"Content-Disposition": f"inline; filename*=utf-8''{name}"}
        return Response(data, media_type=media_type, headers=headers)

    def _uri(self, request: Request) -> str:
        """Return the uri of the path's row: what is read is always a row of the index."""
        row = request.path_params["row"]
        uri = self.finder.item(row).uri
        if uri is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"row {row} is a text: it has no picture")
        return uri


async def _body(request: Request) -> bytes:
    """Return the request's body, of at most MAX_UPLOAD_BYTES."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_UPLOAD_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file has more than {MAX_UPLOAD_BYTES >> 20} MiB: make it smaller",
            )
    return bytes(data)


def _hits_asked(request: Request) -> int:
    k = _number(request, "k")
    if not 1 <= k <= MAX_HITS:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"k is {k}: ask for 1 to {MAX_HITS} hits")
    return k


def _number(request: Request, name: str) -> int:
    given = request.query_params.get(name, "")
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"{name} is {given!r:.50}: expected a number")
    return int(given)


def _json(answer: Answer) -> Response:
    return JSONResponse(answer.to_json())


def _failed(_: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it for no other
    return JSONResponse({"error": error.detail}, error.status_code)
