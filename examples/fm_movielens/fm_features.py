"""From a movie to the integers a factorization machine looks up; plain Python, no Spark."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

FIRST_YEAR, LAST_YEAR, PERIOD_YEARS = 1900, 2099, 5
YEAR_BUCKETS = 2 + (LAST_YEAR - FIRST_YEAR) // PERIOD_YEARS
POPULARITY_BUCKETS = 64  # enough for 2**32 ratings of one movie

# The year closes the title: "Heat (1995)", a series' "Cosmos (2014-2015)"; not "Babylon 5",
# nor a number inside the title such as "2001: A Space Odyssey (1968)".
_YEAR = re.compile(r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$")


def release_year(title: str) -> int | None:
    """The release year that closes a MovieLens title, None if there is none."""
    match = _YEAR.search(title)
    return int(match.group(1)) if match else None


def year_bucket(year: int | None) -> int:
    """0 for an unknown year, else 1 + the index of its five-year period since 1900."""
    if year is None:
        return 0
    return 1 + (min(max(year, FIRST_YEAR), LAST_YEAR) - FIRST_YEAR) // PERIOD_YEARS


def popularity_bucket(ratings: int) -> int:
    """Two buckets for every doubling of the number of ratings: floor(2 log2(1 + ratings))."""
    return math.floor(2 * math.log2(1 + ratings))


MOVIE_SCHEMA = (
    "movie_id LONG, movie INT, genres ARRAY<INT>, year INT, movie_ratings INT, popularity INT, "
    "popularity_of_others INT"
)


class MovieFeatures(NamedTuple):
    """One row of the movie table that ratings are joined with; MOVIE_SCHEMA in Spark's words."""

    movie_id: int
    movie: int  # dense index
    genres: list[int]  # indices into the genre vocabulary, possibly empty
    year: int  # bucket
    movie_ratings: int  # training ratings of the movie
    popularity: int  # bucket of movie_ratings
    popularity_of_others: int  # bucket of movie_ratings - 1


def movie_features(
    movies: Sequence[tuple[int, int | None, Sequence[str]]], ratings: Mapping[int, int]
) -> tuple[list[MovieFeatures], list[str]]:
    """(features of every movie, the genre vocabulary).

    movies: (movie id, release year or None, genre names), whose order gives the dense index.
    ratings: the number of training ratings by movie id; a movie without any may be missing.
    """
    vocabulary = sorted({genre for _, _, genres in movies for genre in genres})
    index = {genre: i for i, genre in enumerate(vocabulary)}
    features = []
    for i, (movie_id, year, genres) in enumerate(movies):
        count = ratings.get(movie_id, 0)
        features.append(
            MovieFeatures(
                movie_id=movie_id,
                movie=i,
                genres=[index[genre] for genre in genres],
                year=year_bucket(year),
                movie_ratings=count,
                popularity=popularity_bucket(count),
                popularity_of_others=popularity_bucket(max(count - 1, 0)),
            )
        )
    return features, vocabulary
