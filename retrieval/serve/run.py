"""An index, its page and the server, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.serve.app import Decode, create_app
from clipfleet.retrieval.serve.finder import Encoder, Finder
from clipfleet.retrieval.serve.pictures import Pictures, PictureSource
from clipfleet.retrieval.serve.server import listen, make_server


def serve_index(
    index: Index,
    model: Encoder | None,
    pictures: PictureSource,
    decode: Decode,
    *,
    threads: int,
    host: str,
    port: int,
    show_url: Callable[[str], None],
) -> None:
    """Serve the page of an index until SIGINT or SIGTERM, and raise that signal again.

    A search takes so many `threads`.

    Raises:
        DatasetMismatchError: The model is not of the index's checkpoint.
        UsageError: The address is not of this machine, or the port is in use.
    """
    app = create_app(
        Finder(index, model, threads=threads), Pictures(pictures), decode, _about(index)
    )
    listener = listen(host, port)
    show_url(listener.url)
    make_server(app, listener).run(sockets=[listener.socket])


def _about(index: Index) -> dict[str, Any]:
    model = index.card.model
    return {
        "name": index.path.name,
        "rows": len(index),
        "content": "pictures" if model.tower == "img" else "texts",
        "kind": index.card.kind,
        "model": f"{model.architecture} {model.precision}",
    }
