"""A factorization machine on MovieLens, trained by TensorFlow on a Spark cluster.

    bin/pl_submit examples/fm_movielens/app.py --data DIR

Spark reads, splits and indexes the ratings (pre_train), TensorFlow trains on them (train), and
the driver prints what the model recommends (shutdown).
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

import fm_features
import movielens_data

import tfos

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

# Percentiles of a hash of (user, movie, seed): the test rows come first, then, of the remaining
# ones, the tenth on which settings are chosen.
TEST_PERCENT, TUNE_PERCENT = 10, 9
ROWS_PER_PARTITION = 500_000
EVALUATION_BATCH = 8192
RECOMMENDED = 10
# What the model predicts from. The numbers of ratings, which the feeds have too, are for training.
FEATURES = ("user", "movie", "genres", "year", "popularity")


class FMMovieLens(tfos.TFOnSparkApp):
    """Predicts ratings from user, movie, genres, release period and popularity."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--data",
            metavar="DIR",
            help="MovieLens directory (csv, ml-1m or ml-100k files), a path or an fsspec URL; "
            "default: download ml-latest-small",
        )
        parser.add_argument("--rank", type=int, default=16, help="factors per feature")
        parser.add_argument("--epochs", type=int, default=15)
        parser.add_argument("--batch-size", type=int, default=1024, help="rows per step")
        parser.add_argument("--learning-rate", type=float, default=0.02, help="Adam's, at first")
        parser.add_argument(
            "--l2-linear", type=float, default=3.0, help="prior precision of linear weights"
        )
        parser.add_argument(
            "--l2-factors", type=float, default=16.0, help="prior precision of factors"
        )
        parser.add_argument(
            "--seed", type=int, default=0, help="of the split, the initial weights, the shuffling"
        )
        parser.add_argument(
            "--users",
            type=int,
            nargs="+",
            metavar="ID",
            help="users to recommend movies to; default: the first three",
        )
        parser.add_argument(
            "--min-ratings",
            type=int,
            default=20,
            help="recommend only movies with so many training ratings",
        )
        parser.add_argument(
            "--tune",
            action="store_true",
            help="to choose settings: drop the test rows, hold out a tenth of the others instead",
        )

    def pre_train(self, spark: SparkSession) -> dict[str, DataFrame]:
        """Feeds "train" and "test" (with --tune, "train" and "valid"), one row per rating.

        user, movie, year, popularity, user_ratings, movie_ratings int; genres array<int>;
        rating float. None is null.
        """
        from pyspark.sql import functions as F  # noqa: N812 - the name PySpark's own manual uses

        ratings, movies = movielens_data.read(spark, self.args.data)
        listed = F.broadcast(movies.select("movie_id"))
        # kept in memory for the passes below; Spark lets go of it at the end of the session
        ratings = ratings.join(listed, "movie_id", "left_semi").cache()
        # A hash of the rating's own key: whatever the partitions, the same ratings are held out.
        percentile = F.pmod(F.xxhash64("user_id", "movie_id", F.lit(self.args.seed)), F.lit(100))
        held_percent = TEST_PERCENT
        if self.args.tune:
            ratings = ratings.where(percentile >= TEST_PERCENT)
            held_percent += TUNE_PERCENT
        is_train = percentile >= held_percent

        users = (
            ratings.groupBy("user_id")
            .agg(
                F.count_if(is_train).alias("ratings"),
                F.sum(F.when(is_train, F.col("rating"))).alias("sum"),
                F.min("rating").alias("low"),
                F.max("rating").alias("high"),
            )
            .orderBy("user_id")
            .collect()
        )
        catalogue = movies.orderBy("movie_id").collect()
        counts = dict(ratings.where(is_train).groupBy("movie_id").count().collect())
        features, genre_names = fm_features.movie_features(
            [(m.movie_id, fm_features.release_year(m.title), m.genres) for m in catalogue], counts
        )

        self.train_rows = sum(user.ratings for user in users)
        self.mean = sum(user.sum or 0.0 for user in users) / self.train_rows
        self.rating_range = (min(user.low for user in users), max(user.high for user in users))
        self.sizes = {"users": len(users), "movies": len(catalogue), "genres": len(genre_names)}
        self.titles = [movie.title for movie in catalogue]
        self.movies = features
        self.held_out = "valid" if self.args.tune else "test"

        user_index = {user.user_id: index for index, user in enumerate(users)}
        movie_index = {movie.movie_id: movie.movie for movie in features}
        self.chosen = self._chosen_users(user_index)
        # Not to be recommended: what the user has rated, and movies that too few have rated.
        rare = {movie.movie for movie in features if movie.movie_ratings < self.args.min_ratings}
        self.excluded = {user_id: set(rare) for user_id in self.chosen}
        for row in ratings.where(F.col("user_id").isin(list(self.chosen))).collect():
            self.excluded[row.user_id].add(movie_index[row.movie_id])

        user_table = spark.createDataFrame(
            [(user.user_id, user_index[user.user_id], user.ratings) for user in users],
            "user_id LONG, user INT, user_ratings INT",
        )
        movie_table = spark.createDataFrame(features, fm_features.MOVIE_SCHEMA)

        def feed(rows: DataFrame, popularity: str, expected_rows: int) -> DataFrame:
            return (
                rows.join(F.broadcast(user_table), "user_id")
                .join(F.broadcast(movie_table), "movie_id")
                .select(
                    *("user", "movie", "genres", "year", F.col(popularity).alias("popularity")),
                    *("user_ratings", "movie_ratings", "rating"),
                )
                .repartition(max(4, math.ceil(expected_rows / ROWS_PER_PARTITION)))
            )

        return {
            # A training rating does not count itself: to a held-out rating, the movie's
            # popularity is the number of other ratings too.
            "train": feed(ratings.where(is_train), "popularity_of_others", self.train_rows),
            self.held_out: feed(ratings.where(~is_train), "popularity", self.train_rows // 9),
        }

    def _chosen_users(self, user_index: dict[int, int]) -> dict[int, int]:
        """The index of each user to recommend to, by user id."""
        ids = self.args.users or sorted(user_index)[:3]
        unknown = [user_id for user_id in ids if user_id not in user_index]
        if unknown:
            raise ValueError(f"--users {unknown[0]}: no ratings of this user in the data")
        return {user_id: user_index[user_id] for user_id in ids}

    def train(self, ctx: Any) -> dict[str, Any]:
        """Train, evaluate and export the model; returns the RMSEs."""
        # Imported here, so that the driver, which imports this module too, needs no TensorFlow.
        import keras
        from fm_model import FactorizationMachine

        args = self.args
        steps = args.epochs * math.ceil(self.train_rows / args.batch_size)
        with ctx.strategy.scope():
            model = FactorizationMachine(
                **self.sizes,
                years=fm_features.YEAR_BUCKETS,
                popularities=fm_features.POPULARITY_BUCKETS,
                train_rows=self.train_rows,
                mean=self.mean,
                rating_range=self.rating_range,
                rank=args.rank,
                l2_linear=args.l2_linear,
                l2_factors=args.l2_factors,
                seed=args.seed,
            )
            rate = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps, alpha=0.01)
            model.compile(
                optimizer=keras.optimizers.Adam(rate),
                loss="mse",
                metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
            )
        # the same number of rows in a step, however many workers take part in it
        batch_size = args.batch_size // ctx.strategy.num_replicas_in_sync
        train = ctx.dataset("train", batch_size, label="rating", shuffle=True, seed=args.seed)
        held_out = ctx.dataset(self.held_out, EVALUATION_BATCH, label="rating", shuffle=False)
        history = ctx.fit(model, train, epochs=args.epochs)
        evaluation = ctx.evaluate(model, held_out)
        ctx.export(model, ctx.dataset("train", batch_size, features=FEATURES))
        return {
            f"{self.held_out}_rmse": float(evaluation["rmse"]),
            "train_rmse": float(history.history["rmse"][-1]),
        }

    def recommend(self, spark: SparkSession, model: str) -> list[Row]:
        """The best movies for each chosen user, best first: rows of user_id, movie and rating.

        model: URI of the exported model.
        """
        from pyspark.sql import Window
        from pyspark.sql import functions as F  # noqa: N812

        candidates = spark.createDataFrame(
            [
                (user_id, user, movie.movie, movie.genres, movie.year, movie.popularity)
                for user_id, user in self.chosen.items()
                for movie in self.movies
                if movie.movie not in self.excluded[user_id]
            ],
            "user_id LONG, user INT, movie INT, genres ARRAY<INT>, year INT, popularity INT",
        )
        # few rows: one partition, and so one process that loads the model, is enough
        rated = tfos.predict(candidates.coalesce(1), model, output="rating")
        # many may get the highest rating that there is: of these the popular ones first
        order = (F.desc("rating"), F.desc("popularity"), "movie")
        rank = F.row_number().over(Window.partitionBy("user_id").orderBy(*order))
        best = rated.withColumn("rank", rank).where(F.col("rank") <= RECOMMENDED)
        return best.orderBy("user_id", "rank").select("user_id", "movie", "rating").collect()

    def shutdown(self) -> None:
        """Print the errors and each chosen user's recommendations."""
        if not self.result or self.result["status"] != "succeeded":
            return
        from pyspark.sql import SparkSession
        from rich.console import Console
        from rich.table import Table

        metrics = self.result["metrics"]
        console = Console()
        for name in ("train_rmse", "valid_rmse", "test_rmse"):
            if name in metrics:
                console.print(f"{name} {metrics[name]:.4f}")
        spark = SparkSession.getActiveSession()
        best = self.recommend(spark, self.result["model"])
        for user_id in self.chosen:
            table = Table("rating", "title", title=f"Unseen movies for user {user_id}")
            for row in best:
                if row.user_id == user_id:
                    table.add_row(f"{row.rating:.2f}", self.titles[row.movie])
            console.print(table)
