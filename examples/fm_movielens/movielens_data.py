"""MovieLens as Spark DataFrames: three file formats, a cached download, a generated stand-in."""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import itertools
import logging
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
CONNECT_TIMEOUT_SECS = 5

# Of ml-100k, whose movies have a 0 or 1 for each: in the order of these columns.
GENRES_100K = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """The two files of one MovieLens release and how Spark reads them."""

    name: str
    ratings: str
    movies: str
    movies_schema: str
    ratings_options: dict[str, str]
    movies_options: dict[str, str]
    encoding: str = "UTF-8"
    flags: tuple[str, ...] = ()  # genre columns, where genres are flags

    @property
    def files(self) -> tuple[str, str]:
        return self.ratings, self.movies


_CSV = {"header": "true", "quote": '"', "escape": '"'}
_100K_FLAGS = tuple(f"flag{i}" for i in range(len(GENRES_100K.split())))

FORMATS = (
    Format(
        name="csv (ml-latest*, ml-25m, ml-32m)",
        ratings="ratings.csv",
        movies="movies.csv",
        movies_schema="movie_id LONG, title STRING, genres STRING",
        ratings_options=_CSV,
        movies_options=_CSV,
    ),
    Format(
        name="ml-1m",
        ratings="ratings.dat",
        movies="movies.dat",
        movies_schema="movie_id LONG, title STRING, genres STRING",
        ratings_options={"sep": "::", "quote": ""},
        movies_options={"sep": "::", "quote": ""},
        encoding="ISO-8859-1",
    ),
    Format(
        name="ml-100k",
        ratings="u.data",
        movies="u.item",
        movies_schema="movie_id LONG, title STRING, released STRING, video STRING, url STRING, "
        + ", ".join(f"{flag} INT" for flag in _100K_FLAGS),
        ratings_options={"sep": "\t", "quote": ""},
        movies_options={"sep": "|", "quote": ""},
        encoding="ISO-8859-1",
        flags=_100K_FLAGS,
    ),
)


def detect_format(location: str, names: Iterable[str]) -> Format:
    """The format whose two files are among names, the file names found in location.

    Raises ValueError, naming the location and the files looked for, when there is none.
    """
    present = set(names)
    for candidate in FORMATS:
        if present.issuperset(candidate.files):
            return candidate
    looked_for = "; ".join(f"{' and '.join(f.files)} for {f.name}" for f in FORMATS)
    raise ValueError(f"no MovieLens data in {location}: looked for {looked_for}")


def read(spark: SparkSession, location: str | None) -> tuple[DataFrame, DataFrame]:
    """(ratings, movies) of the MovieLens directory at location, a path or any fsspec URL.

    ratings: user_id long, movie_id long, rating float. movies: movie_id long, title string,
    genres array<string> (never null). None stands for ml-latest-small, downloaded once, or for
    generated data where there is no network.

    A local directory is read by the executors and must be visible to them; anything else passes
    through the driver. Blocks; raises ValueError when location has no MovieLens data.
    """
    if location is None:
        return _read(spark, default_directory(), on_driver=True)
    fs, path = fsspec.core.url_to_fs(location)
    if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
        return _read(spark, Path(path), on_driver=False)
    return _read(spark, _fetch(fs, path, location), on_driver=True)


def _read(spark: SparkSession, directory: Path, on_driver: bool) -> tuple[DataFrame, DataFrame]:
    from pyspark.sql import functions as F  # noqa: N812 - the name PySpark's own manual uses

    names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    layout = detect_format(str(directory), names)

    def table(name: str, schema: str, options: dict[str, str]) -> DataFrame:
        path = directory / name
        reader = spark.read.schema(schema).options(**options, mode="FAILFAST")
        if not on_driver:
            return reader.option("encoding", layout.encoding).csv(path.absolute().as_uri())
        with path.open(encoding=layout.encoding) as file:
            lines = [line.rstrip("\n") for line in file]
        return reader.csv(spark.sparkContext.parallelize(lines))

    ratings = table(
        layout.ratings,
        "user_id LONG, movie_id LONG, rating FLOAT, time LONG",
        layout.ratings_options,
    ).select("user_id", "movie_id", "rating")
    movies = table(layout.movies, layout.movies_schema, layout.movies_options)
    if layout.flags:
        named = [
            F.when(F.col(flag) == 1, F.lit(genre))
            for flag, genre in zip(layout.flags, GENRES_100K.split(), strict=True)
        ]
        genres: Column = F.array_compact(F.array(*named))
    else:
        genres = F.split(F.coalesce("genres", F.lit("(no genres listed)")), r"\|")
    return ratings, movies.select("movie_id", "title", genres.alias("genres"))


@functools.cache
def _cache() -> Path:
    """The user's; where it cannot be made, as in a container, a directory for this process."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = users / "tfos" / "movielens"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return cache
    except OSError as error:
        log.warning("%s cannot be made (%s): the data are not kept for other runs", cache, error)
    scratch = tempfile.mkdtemp(prefix="movielens-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(scratch)


def default_directory(cache: Path | None = None, url: str = URL) -> Path:
    """The directory of ml-latest-small in the cache, downloaded on first use.

    Without a network: one warning, and the directory of generated data in the same format.
    """
    cache = cache or _cache()
    directory = cache / "ml-latest-small"
    if directory.exists():
        return directory
    try:
        return _publish(directory, lambda scratch: _download(url, scratch))
    except (urllib.error.URLError, TimeoutError, ConnectionError, zipfile.BadZipFile) as error:
        log.warning(
            "cannot download %s (%s): using GENERATED ratings; pass --data for real ones",
            url,
            error,
        )
    return _publish(cache / "generated-0", lambda scratch: generate(scratch, seed=0))


def _publish(directory: Path, fill: Callable[[Path], None]) -> Path:
    """directory, made by fill(scratch directory) and an atomic rename unless it exists."""
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        fill(scratch)
        scratch.rename(directory)
    except OSError:
        if not directory.exists():  # another process may have published the same first
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return directory


def _download(url: str, directory: Path) -> None:
    """Unpack the two files of the zip archive at url into directory, without its top folder."""
    with tempfile.TemporaryFile() as archive:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_SECS) as response:
            shutil.copyfileobj(response, archive)
        with zipfile.ZipFile(archive) as members:
            for member in members.namelist():
                name = Path(member).name
                if name in FORMATS[0].files:
                    (directory / name).write_bytes(members.read(member))


def _fetch(fs: fsspec.AbstractFileSystem, path: str, location: str) -> Path:
    """The cache directory with a copy of the two MovieLens files in fs at path."""
    names = [Path(entry).name for entry in fs.ls(path, detail=False)] if fs.isdir(path) else []
    layout = detect_format(location, names)

    def copy(scratch: Path) -> None:
        for name in layout.files:
            fs.get_file(f"{path}/{name}", str(scratch / name))

    return _publish(_cache() / hashlib.sha256(location.encode()).hexdigest()[:16], copy)


_GENERATED_GENRES = "Action Adventure Animation Comedy Crime Drama Fantasy Horror Romance Sci-Fi"
_ADJECTIVES = "Silent Broken Golden Last Hidden Crimson Lonely Burning Distant Endless"
_NOUNS = (
    "River Garden Empire Summer Witness Harbor Mirror Station Promise Winter Detective "
    "Orchard Highway Kingdom Letter Island Shadow Circus Mountain Stranger"
)
_PLACES = "Lisbon Marseille Tucson Kyoto Bergen Havana Dublin Cairo Oslo Lima"


def generate(directory: Path, seed: int, users: int = 600, movies: int = 2000) -> None:
    """Write ratings.csv and movies.csv of about 100 ratings per user, a function of the seed.

    A rating is biases plus the product of 4 user and movie factors plus noise, rounded to half
    stars in 0.5..5; a movie's factors depend on its genres, and few movies get most ratings.
    """
    rng = np.random.default_rng(seed)
    genres = _GENERATED_GENRES.split()
    words = itertools.product(_ADJECTIVES.split(), _NOUNS.split(), _PLACES.split())
    names = [f"{adjective} {noun} of {place}" for adjective, noun, place in words]
    titles = rng.permutation(names)[:movies]
    years = rng.integers(1930, 2019, movies)
    member = rng.random((movies, len(genres))) < 0.2
    member[np.arange(movies), rng.integers(0, len(genres), movies)] = True

    of_genres = member @ rng.normal(size=(len(genres), 4)) / np.sqrt(member.sum(1, keepdims=True))
    movie_factors = 0.5 * of_genres + 0.3 * rng.normal(size=(movies, 4))
    user_factors = 0.5 * rng.normal(size=(users, 4))
    user_bias, movie_bias = rng.normal(0, 0.4, users), rng.normal(0, 0.4, movies)
    popularity = 1.0 / (10.0 + rng.permutation(movies))
    popularity /= popularity.sum()
    activity = np.clip(rng.lognormal(4.2, 0.9, users).astype(int), 20, movies // 2)

    with (directory / "movies.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["movieId", "title", "genres"])
        for i, (title, year) in enumerate(zip(titles, years, strict=True)):
            named = [genre for genre, has in zip(genres, member[i], strict=True) if has]
            writer.writerow([i + 1, f"{title} ({year})", "|".join(named)])
    with (directory / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["userId", "movieId", "rating", "timestamp"])
        for u in range(users):
            rated = np.sort(rng.choice(movies, activity[u], replace=False, p=popularity))
            mean = 3.5 + user_bias[u] + movie_bias[rated] + movie_factors[rated] @ user_factors[u]
            stars = np.round(2 * (mean + rng.normal(0, 0.75, len(rated)))) / 2
            times = rng.integers(1_000_000_000, 1_500_000_000, len(rated))
            for m, rating, time in zip(rated, np.clip(stars, 0.5, 5.0), times, strict=True):
                writer.writerow([u + 1, m + 1, rating, time])
