"""The factorization machine example: its features, its data, its Spark half, its model."""

from __future__ import annotations

import argparse
import collections
import importlib
import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fm_movielens"


@pytest.fixture(scope="module")
def load():
    """Imports app.py and the modules beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield importlib.import_module
    sys.modules.pop("app", None)  # other apps have this name too


@pytest.fixture(scope="module")
def features(load):
    return load("fm_features")


@pytest.fixture(scope="module")
def data(load):
    return load("movielens_data")


@pytest.fixture(scope="module")
def fm_model(load):
    return load("fm_model")


@pytest.fixture(scope="module")
def spark():
    sql = pytest.importorskip("pyspark.sql")
    active = sql.SparkSession.getActiveSession()
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = active or builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield session
    if active is None:
        session.stop()


class TestFeatures:
    @pytest.mark.parametrize(
        ("title", "year"),
        [
            ("Toy Story (1995)", 1995),
            ("Heat (1995) ", 1995),
            ("2001: A Space Odyssey (1968)", 1968),
            ("City of Lost Children, The (Cité des enfants perdus, La) (1995)", 1995),
            ("Cosmos (2014-2015)", 2014),
            ("Fawlty Towers (1975\u20131979)", 1975),
            ("The Expanse (2015\u2013)", 2015),
            ("Babylon 5", None),
            ("Ready Player One", None),
            ("1984", None),
            ("Moonlight (unfinished)", None),
            ("", None),
        ],
    )
    def test_release_year(self, features, title, year):
        assert features.release_year(title) == year

    def test_year_buckets_are_five_years_and_within_bounds(self, features):
        assert features.year_bucket(None) == 0
        assert features.year_bucket(1995) == features.year_bucket(1999)
        assert features.year_bucket(1995) == features.year_bucket(1994) + 1
        assert features.year_bucket(1) == features.year_bucket(1900) == 1
        assert features.year_bucket(9999) == features.year_bucket(2099)
        assert features.year_bucket(9999) == features.YEAR_BUCKETS - 1

    def test_popularity_has_two_buckets_per_doubling(self, features):
        assert [features.popularity_bucket(n) for n in (0, 1, 3, 7, 15)] == [0, 2, 4, 6, 8]
        assert features.popularity_bucket(2**32 - 2) < features.POPULARITY_BUCKETS

    def test_movie_features(self, features):
        rows, vocabulary = features.movie_features(
            [(7, 1995, ["Drama", "Comedy"]), (9, None, []), (11, 2001, ["Comedy"])], {7: 4, 11: 1}
        )
        assert vocabulary == ["Comedy", "Drama"]
        assert [row.movie for row in rows] == [0, 1, 2]
        assert [row.genres for row in rows] == [[1, 0], [], [0]]
        assert [row.movie_ratings for row in rows] == [4, 0, 1]
        assert [row.popularity for row in rows] == [4, 0, 2]
        assert [row.popularity_of_others for row in rows] == [4, 0, 0]

    def test_schema_names_the_fields(self, features):
        names = [column.split()[0] for column in features.MOVIE_SCHEMA.split(", ")]
        assert tuple(names) == features.MovieFeatures._fields


class TestData:
    def test_detects_every_format_among_other_files(self, data):
        for layout in data.FORMATS:
            assert data.detect_format("x", [*layout.files, "README.txt"]) is layout

    def test_no_format_names_the_directory_and_the_files(self, data):
        with pytest.raises(ValueError, match="no MovieLens data in /some/where") as error:
            data.detect_format("/some/where", ["ratings.csv", "movies.dat"])
        for name in ("ratings.csv", "movies.csv", "ratings.dat", "movies.dat", "u.data", "u.item"):
            assert name in str(error.value)

    def test_generated_data_are_a_function_of_the_seed(self, data, tmp_path):
        texts = []
        for run, seed in enumerate((1, 1, 2)):
            directory = tmp_path / str(run)
            directory.mkdir()
            data.generate(directory, seed, users=20, movies=50)
            texts.append([(directory / name).read_text() for name in data.FORMATS[0].files])
        assert texts[0] == texts[1]
        assert texts[0][0] != texts[2][0]

    def test_generated_data_look_like_movielens(self, features, data, tmp_path):
        data.generate(tmp_path, seed=3, users=20, movies=50)
        ratings = np.genfromtxt(tmp_path / "ratings.csv", delimiter=",", names=True)
        assert set(ratings["rating"]) <= set(np.arange(0.5, 5.1, 0.5))
        pairs = set(zip(ratings["userId"], ratings["movieId"], strict=True))
        assert len(pairs) == len(ratings)
        titles = [row.split(",")[1] for row in (tmp_path / "movies.csv").read_text().splitlines()]
        assert all(features.release_year(title) for title in titles[1:])

    def test_without_network_warns_and_generates_once(self, data, tmp_path, caplog):
        unreachable = "http://127.0.0.1:1/ml-latest-small.zip"
        directory = data.default_directory(tmp_path, unreachable)
        assert {path.name for path in directory.iterdir()} == set(data.FORMATS[0].files)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert unreachable in caplog.text
        written = (directory / "ratings.csv").stat().st_mtime_ns
        assert data.default_directory(tmp_path, unreachable) == directory
        assert (directory / "ratings.csv").stat().st_mtime_ns == written

    def test_where_the_cache_cannot_be_made_the_data_are_for_this_process(
        self, data, tmp_path, caplog, monkeypatch
    ):
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        data._cache.cache_clear()
        directory = data.default_directory(url="http://127.0.0.1:1/ml-latest-small.zip")
        assert (directory / "ratings.csv").exists()
        assert f"{tmp_path}/file/tfos/movielens cannot be made" in caplog.text
        data._cache.cache_clear()
        shutil.rmtree(directory.parent)

    def test_a_failed_download_leaves_nothing(self, data, tmp_path):

        def fail(scratch: Path) -> None:
            (scratch / "ratings.csv").write_text("half")
            raise ConnectionError("cut off")

        with pytest.raises(ConnectionError):
            data._publish(tmp_path / "ml", fail)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.spark
    def test_reads_every_format_alike(self, data, spark, tmp_path):
        flags = "|".join("1" if g in ("Comedy", "Drama") else "0" for g in data.GENRES_100K.split())
        contents = {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.5,964982703\n2,11,3.0,9\n",
            "movies.csv": "movieId,title,genres\n"
            '10,"Bête, La ""1"" (1975)",Comedy|Drama\n11,Babylon 5,(no genres listed)\n',
            "ratings.dat": "1::10::4.5::964982703\n2::11::3::9\n",
            "movies.dat": '10::Bête, La "1" (1975)::Comedy|Drama\n'
            "11::Babylon 5::(no genres listed)\n",
            "u.data": "1\t10\t4.5\t881250949\n2\t11\t3\t9\n",
            "u.item": f'10|Bête, La "1" (1975)|01-Jan-1975||http://x/y|{flags}\n'
            f"11|Babylon 5|||{'|0' * 19}\n",
        }
        for layout, on_driver in itertools.product(data.FORMATS, (False, True)):
            directory = tmp_path / f"{layout.ratings}-{on_driver}"
            directory.mkdir()
            for name in layout.files:
                (directory / name).write_text(contents[name], encoding=layout.encoding)
            ratings, movies = data._read(spark, directory, on_driver)
            assert sorted(map(tuple, ratings.collect())) == [(1, 10, 4.5), (2, 11, 3.0)]
            untagged = [] if layout.flags else ["(no genres listed)"]
            assert sorted(map(tuple, movies.collect())) == [
                (10, 'Bête, La "1" (1975)', ["Comedy", "Drama"]),
                (11, "Babylon 5", untagged),
            ]


@pytest.mark.spark
class TestPreTrain:
    @pytest.fixture(scope="class")
    def directory(self, data, tmp_path_factory):
        directory = tmp_path_factory.mktemp("movielens")
        data.generate(directory, seed=5, users=20, movies=60)
        return directory

    @pytest.fixture
    def pre_train(self, load, spark, directory):
        """Runs pre_train with these app arguments: (the app, its feeds as lists of rows)."""

        def pre_train(*arguments: str):
            app = load("app").FMMovieLens()
            parser = argparse.ArgumentParser()
            app.add_arguments(parser)
            app.args = parser.parse_args(["--data", str(directory), *arguments])
            return app, {name: df.collect() for name, df in app.pre_train(spark).items()}

        return pre_train

    def test_feeds(self, pre_train, directory):
        app, feeds = pre_train("--min-ratings", "3", "--users", "4", "9")
        train, test = feeds["train"], feeds["test"]
        ratings = np.genfromtxt(directory / "ratings.csv", delimiter=",", names=True)
        assert len(train) + len(test) == len(ratings)
        assert 0.05 < len(test) / len(ratings) < 0.15
        assert not {(r.user, r.movie) for r in train} & {(r.user, r.movie) for r in test}
        assert all(value is not None for row in train + test for value in row)
        assert all(0 <= genre < app.sizes["genres"] for row in train for genre in row.genres)
        assert app.train_rows == len(train)
        assert app.mean == pytest.approx(np.mean([row.rating for row in train]))

        users = collections.Counter(row.user for row in train)
        movies = collections.Counter(row.movie for row in train)
        assert all(row.user_ratings == users[row.user] for row in train + test)
        assert all(row.movie_ratings == movies[row.movie] for row in train + test)

        rated = {int(r["movieId"]) - 1 for r in ratings if r["userId"] == 9}
        rare = {movie for movie in range(60) if movies[movie] < 3}
        assert app.excluded[9] == rated | rare
        assert app.chosen == {4: 3, 9: 8}

    def test_the_split_depends_on_the_seed_alone(self, pre_train, spark, monkeypatch):
        def held_out(*arguments: str) -> set[tuple[int, int]]:
            return {(r.user, r.movie) for r in pre_train(*arguments)[1]["test"]}

        first = held_out("--seed", "1")
        assert held_out("--seed", "2") != first
        data = sys.modules["movielens_data"]
        read = data.read

        def shuffled(*arguments):
            ratings, movies = read(*arguments)
            return ratings.orderBy("rating").repartition(3), movies

        monkeypatch.setattr(data, "read", shuffled)
        assert held_out("--seed", "1") == first

    def test_tuning_never_sees_the_test_rows(self, pre_train):
        test = {(r.user, r.movie) for r in pre_train()[1]["test"]}
        feeds = pre_train("--tune")[1]
        assert set(feeds) == {"train", "valid"}
        assert not test & {(r.user, r.movie) for rows in feeds.values() for r in rows}

    def test_an_unknown_user_is_named(self, pre_train):
        with pytest.raises(ValueError, match="--users 77: no ratings"):
            pre_train("--users", "1", "77")


SIZES = {"users": 7, "movies": 9, "genres": 5, "years": 4, "popularities": 6}
GENRES = [[0, 3, 4], [], [2], []]  # the last rating has none, and one before it


@pytest.fixture
def model(fm_model):
    """A model whose weights are all random and large enough for every term to count."""
    model = fm_model.FactorizationMachine(
        **SIZES, train_rows=100, mean=3.5, rating_range=(0.5, 5.0), rank=3
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture
def batch(fm_model):
    tf = fm_model.tf
    return {
        "user": tf.constant([0, 6, 2, 0], tf.int32),
        "movie": tf.constant([8, 1, 8, 3], tf.int32),
        "year": tf.constant([0, 1, 2, 3], tf.int32),
        "popularity": tf.constant([5, 4, 0, 1], tf.int32),
        "genres": tf.ragged.constant(GENRES, dtype=tf.int32),
        "user_ratings": tf.constant([2, 1, 5, 2], tf.int32),
        "movie_ratings": tf.constant([3, 1, 3, 4], tf.int32),
    }


def naive_rating(model, batch, row: int) -> float:
    """Equation 5, pair by pair."""
    tables = (model.user, model.movie, model.year, model.popularity)
    names = ("user", "movie", "year", "popularity")
    features = [
        (1.0, table.embeddings.numpy()[int(batch[name][row])])
        for table, name in zip(tables, names, strict=True)
    ]
    genres = GENRES[row]
    features += [(len(genres) ** -0.5, model.genre.embeddings.numpy()[g]) for g in genres]
    rating = float(model.bias.numpy()) + sum(x * weights[0] for x, weights in features)
    for (x, v), (z, w) in itertools.combinations(features, 2):
        rating += x * z * float(v[1:] @ w[1:])
    return rating


class TestModel:
    def test_equals_the_sum_over_pairs(self, model, batch):
        expected = [naive_rating(model, batch, row) for row in range(4)]
        np.testing.assert_allclose(model(batch, training=True), expected, rtol=1e-5)
        np.testing.assert_allclose(model(batch), np.clip(expected, 0.5, 5.0), rtol=1e-5)

    def test_genres_may_be_dense(self, fm_model, model, batch):
        ragged = {**batch, "genres": fm_model.tf.ragged.constant([[0, 1]] * 4, dtype="int32")}
        dense = {**batch, "genres": fm_model.tf.constant([[0, 1]] * 4, dtype="int32")}
        np.testing.assert_allclose(model(dense), model(ragged), rtol=1e-6)

    def test_one_epoch_pays_the_penalty_once(self, fm_model):
        tf = fm_model.tf
        rows = [(u, m) for u in range(7) for m in range(9) if (u + m) % 3]
        model = fm_model.FactorizationMachine(
            **SIZES, train_rows=len(rows), mean=0.0, rating_range=(0.5, 5.0), rank=3,
            l2_linear=2.0, l2_factors=5.0,
        )  # fmt: skip
        user, movie = np.array(rows, np.int32).T
        zeros = tf.zeros(len(rows), tf.int32)
        model(
            {
                "user": tf.constant(user),
                "movie": tf.constant(movie),
                "year": zeros,
                "popularity": zeros,
                "genres": tf.RaggedTensor.from_row_lengths(zeros, tf.ones_like(zeros)),
                "user_ratings": tf.constant(np.bincount(user)[user]),
                "movie_ratings": tf.constant(np.bincount(movie)[movie]),
            },
            training=True,
        )
        tables = [weight for weight in model.get_weights() if weight.ndim == 2]
        expected = sum(2.0 * (t[:, 0] ** 2).sum() + 5.0 * (t[:, 1:] ** 2).sum() for t in tables)
        np.testing.assert_allclose(len(rows) * float(sum(model.losses)), expected, rtol=1e-5)

    def test_gradients_are_of_the_batch_rows(self, fm_model, model, batch):
        tf = fm_model.tf

        @tf.function(reduce_retracing=True)
        def gradient(features):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(features, training=True)) + tf.add_n(model.losses)
            return tape.gradient(loss, model.user.embeddings.value)

        slices = gradient(batch)
        assert isinstance(slices, tf.IndexedSlices)
        assert sorted(set(slices.indices.numpy())) == [0, 2, 6]

    def test_trains_and_reloads(self, data, fm_model, model, batch, tmp_path):
        keras, tf = fm_model.keras, fm_model.tf
        model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
        dataset = tf.data.Dataset.from_tensors((batch, tf.constant([1.0, 5.0, 3.0, 2.0])))
        losses = model.fit(dataset.repeat(20), epochs=2, steps_per_epoch=10, verbose=0).history
        assert losses["loss"][1] < losses["loss"][0]
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(again(batch), model(batch), rtol=1e-6)
