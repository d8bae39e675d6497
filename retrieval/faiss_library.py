"""FAISS, which the extra `index` installs."""

from __future__ import annotations

from types import ModuleType

from clipfleet.errors import DependencyError


def load_faiss() -> ModuleType:
    """Return the module `faiss`.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            f"a search needs FAISS ({error}): pip install 'clipfleet[index]', or faiss-cpu"
        ) from error
    module: ModuleType = faiss
    return module
