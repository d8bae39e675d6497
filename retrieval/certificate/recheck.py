"""A certificate is compared with its index, as the index is now."""

from __future__ import annotations

import numpy as np

from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import CHOSEN_BY, Certificate
from clipfleet.retrieval.certificate.recall import interval, shares_found
from clipfleet.retrieval.certificate.sample import exact_neighbours, held_out, of_dataset
from clipfleet.retrieval.certificate.searchable import Searchable

_QUERIES = 200  # of each kind: a fifth of the certificate's


def recheck(
    index: Searchable, certificate: Certificate, *, queries: Dataset | None = None
) -> list[str]:
    """Measure recall@10 again with other queries; return what contradicts the certificate.

    Without `queries`, the dataset that the certificate names, only rows of the index are queries.
    The index's vectors are read once.

    Raises:
        UsageError: The index or `queries` has no vectors.
        DependencyError: FAISS is not installed.
    """
    rows = int(np.count_nonzero(index.alive))
    if rows != certificate.rows:
        counts = f"the certificate is of {certificate.rows:,} rows, and the index has {rows:,}"
        return [f"{counts}: `clipfleet index --append` measures it again"]
    seed = certificate.seed + 1
    samples = [held_out(index, count=_QUERIES, seed=seed)]
    if queries is not None:
        samples.append(of_dataset(queries, count=_QUERIES, seed=seed))
    certified = {recall.kind: recall.deciding for recall in certificate.recalls}
    wrong = []
    for sample, exact in zip(samples, exact_neighbours(index, samples), strict=True):
        found = shares_found(index, sample, exact, CHOSEN_BY, certificate.parameters)
        now = interval(found)
        if sample.kind in certified and now.high < certified[sample.kind].low:
            wrong.append(
                f"recall@10 of {len(found)} {sample.kind} queries is {now.mean:.4f}, and the "
                f"certificate has {certified[sample.kind].mean:.4f}: the codes or the vectors are "
                "not those that were measured; build the index again in another folder"
            )
    return wrong
