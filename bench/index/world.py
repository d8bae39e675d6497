"""Structured unit vectors like those of CLIP: clusters that overlap, and a gap between the towers.

A picture's vector is the sum of the mean of all pictures, of its content and of some noise. Its
content is the centre of a cluster and a mixture of that cluster's directions. Three quarters of
these directions are shared by all clusters, so clusters overlap. A caption keeps a part of its
picture's content, is weaker, and has a mean of its own: the modality gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

DIM = 512
_TOPICS = 64  # clusters have a part of their centres in common
_SHARED_DIRECTIONS = 192
_CENTRE_NORM = 0.4
_SPREAD = 0.6  # of the contents in a cluster
_MEAN_NORM = 0.75  # of each tower
_IMAGE_NOISE, _TEXT_NOISE = 0.1, 0.25
_TEXT_CONTENT = 0.8  # a caption says less than its picture shows
_TEXT_KEEPS = 0.6  # correlation of a caption's mixture with its picture's


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The contents of n pictures: the number of each one's cluster, and its mixture (n, rank)."""

    clusters: NDArray[np.int64]
    mixtures: Vectors

    def __getitem__(self, rows: NDArray[np.int64]) -> Contents:
        return Contents(clusters=self.clusters[rows], mixtures=self.mixtures[rows])


class World:
    """The clusters from which pictures and captions are drawn; equal seeds give equal worlds."""

    def __init__(self, seed: int, *, clusters: int = 2000, rank: int = 48) -> None:
        random = np.random.default_rng([seed, 0])
        shared = np.linalg.qr(_normal(random, DIM, _SHARED_DIRECTIONS))[0].T
        spectrum = _unit(np.arange(1, _SHARED_DIRECTIONS + 1, dtype=np.float32) ** -0.45)
        topics = _normal(random, _TOPICS, _SHARED_DIRECTIONS) * spectrum
        own = _normal(random, clusters, _SHARED_DIRECTIONS) * spectrum
        of_topic = topics[random.integers(0, _TOPICS, clusters)]
        self._centres = _CENTRE_NORM * (0.6 * of_topic + 0.8 * own) @ shared
        self._directions = np.empty((clusters, rank, DIM), np.float32)
        strengths = _unit(np.arange(1, rank + 1, dtype=np.float32) ** -0.35)
        for directions in self._directions:
            mixed = _cluster_directions(random, shared, spectrum, rank)
            directions[:] = mixed * strengths[:, None]
        sizes = np.arange(1, clusters + 1) ** -0.9
        self._shares = sizes / sizes.sum()
        self._image_mean = _unit(_normal(random, DIM))
        self._text_mean = _unit(0.1 * self._image_mean + _unit(_normal(random, DIM)))

    def contents(self, random: np.random.Generator, count: int) -> Contents:
        """Draw the contents of so many pictures; some are more typical of their cluster."""
        distance = np.sqrt(random.gamma(6, 1 / 6, (count, 1))).astype(np.float32)
        return Contents(
            clusters=random.choice(len(self._shares), count, p=self._shares),
            mixtures=_normal(random, count, self._directions.shape[1]) * distance,
        )

    def images(self, random: np.random.Generator, contents: Contents) -> Vectors:
        """Return the vectors (n, D) of pictures, with L2 norms of 1."""
        noise = _noise(random, len(contents.clusters))
        content = self._positions(contents)
        return _unit(content + _MEAN_NORM * self._image_mean + _IMAGE_NOISE * noise)

    def texts(self, random: np.random.Generator, contents: Contents) -> Vectors:
        """Return the vectors (n, D) of captions of these pictures, with L2 norms of 1."""
        other = self.contents(random, len(contents.clusters)).mixtures
        kept = _TEXT_KEEPS * contents.mixtures + (1 - _TEXT_KEEPS**2) ** 0.5 * other
        content = self._positions(Contents(clusters=contents.clusters, mixtures=kept))
        noise = _noise(random, len(contents.clusters))
        return _unit(_TEXT_CONTENT * content + _MEAN_NORM * self._text_mean + _TEXT_NOISE * noise)

    def _positions(self, contents: Contents) -> Vectors:
        """Return the contents as vectors (n, D): products of one cluster's rows at a time."""
        positions: Vectors = self._centres[contents.clusters]
        order = np.argsort(contents.clusters, kind="stable")
        present, starts = np.unique(contents.clusters[order], return_index=True)
        for cluster, rows in zip(present, np.split(order, starts)[1:], strict=True):
            positions[rows] += _SPREAD * contents.mixtures[rows] @ self._directions[cluster]
        return positions


def near_copies(random: np.random.Generator, vectors: Vectors) -> Vectors:
    """Return vectors (n, D) as of the same pictures after another encoding or resize.

    Their cosines with the originals are between 0.97 and 0.9996.
    """
    distance = random.uniform(0.03, 0.25, (len(vectors), 1)).astype(np.float32)
    return _unit(vectors + distance * _noise(random, len(vectors)))


def _cluster_directions(
    random: np.random.Generator, shared: Vectors, spectrum: Vectors, rank: int
) -> Vectors:
    """Return the directions (rank, D) of a cluster in random order: shared ones and its own."""
    chances = spectrum.astype(np.float64) ** 0.8
    of_all = rank * 3 // 4
    chosen = random.choice(len(shared), of_all, replace=False, p=chances / chances.sum())
    mixed = np.concatenate([shared[chosen], _unit(_normal(random, rank - of_all, DIM))])
    random.shuffle(mixed)
    return mixed


def _noise(random: np.random.Generator, count: int) -> Vectors:
    """Return noise (count, D) with norms of about 1."""
    noise: Vectors = _normal(random, count, DIM) / np.float32(DIM**0.5)
    return noise


def _normal(random: np.random.Generator, *shape: int) -> Vectors:
    return random.standard_normal(shape, np.float32)


def _unit(vectors: Vectors) -> Vectors:
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled
