"""The factorization machine of Rendle 2010 as a Keras model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfos_examples")
class FeatureTable(keras.layers.Embedding):
    """One row [w_i, v_i1 ... v_ik] per feature i: int ids [...] -> float32 [..., 1 + rank].

    A stock Embedding first reads its whole table and gathers from that copy. This one gathers
    where the table lives, so that a worker and a parameter server exchange the batch's rows only.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.embedding_lookup(self.embeddings.value, inputs)


@keras.saving.register_keras_serializable(package="tfos_examples")
class FactorizationMachine(keras.Model):
    """A second-order factorization machine (Rendle 2010, "Factorization Machines", ICDM).

    Equation 5:   y(x) = w_0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j
    Lemma 3.1:    sum_{i<j} <v_i, v_j> x_i x_j = 1/2 sum_f [(sum_i v_if x_i)^2 - sum_i v_if^2 x_i^2]

    The non-zero x_i of a rating are x = 1 for its user, movie, release period and popularity
    bucket, and x = 1 / sqrt(n) for each of the movie's n genres.

    Training adds the penalty of Gaussian priors on all w and v, that is, one epoch minimises

        sum over ratings of (y - y(x))^2  +  l2_linear * sum_i w_i^2  +  l2_factors * sum_i |v_i|^2

    A batch carries its share: user u, who has n_u of the training ratings, pays 1 / n_u of its
    penalty in each of them (and likewise for movies), so only the batch's rows are touched. The
    few rows of the other three tables are penalised whole, by 1 / train_rows per rating.

    Inputs, a dict: user, movie, year, popularity int [B]; genres int [B, None], ragged or dense;
    and, when training only, user_ratings and movie_ratings int [B], the n_u and n_m above (>= 1).
    Output: the rating, float32 [B]; clipped to rating_range unless training, since no rating lies
    outside it and clipping inside the loss would stop the gradient of the worst errors.
    """

    def __init__(
        self,
        users: int,
        movies: int,
        genres: int,
        years: int,
        popularities: int,
        train_rows: int,
        mean: float,
        rating_range: tuple[float, float],
        rank: int = 16,
        l2_linear: float = 3.0,
        l2_factors: float = 16.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments = {
            "users": users,
            "movies": movies,
            "genres": genres,
            "years": years,
            "popularities": popularities,
            "train_rows": train_rows,
            "mean": mean,
            "rating_range": tuple(rating_range),
            "rank": rank,
            "l2_linear": l2_linear,
            "l2_factors": l2_factors,
            "seed": seed,
        }
        self.train_rows = train_rows
        self.low, self.high = rating_range
        self.row_penalty = [l2_linear] + [l2_factors] * rank
        self.bias = self.add_weight(
            name="bias", shape=(), initializer=keras.initializers.Constant(mean)
        )
        seeds = iter(range(seed, seed + 5))

        def table(name: str, size: int) -> FeatureTable:
            initializer = keras.initializers.RandomNormal(stddev=0.01, seed=next(seeds))
            layer = FeatureTable(size, 1 + rank, embeddings_initializer=initializer, name=name)
            layer.build((None,))  # now, so that all variables are made in the strategy's scope
            return layer

        self.user = table("user", users)
        self.movie = table("movie", movies)
        self.genre = table("genre", genres)
        self.year = table("year", years)
        self.popularity = table("popularity", popularities)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}

    def call(
        self, features: dict[str, tf.Tensor | tf.RaggedTensor], training: bool = False
    ) -> tf.Tensor:
        user, movie = self.user(features["user"]), self.movie(features["movie"])
        if training:
            self.add_loss(self._penalty(user, features["user_ratings"]))
            self.add_loss(self._penalty(movie, features["movie_ratings"]))
            for layer in (self.genre, self.year, self.popularity):
                self.add_loss(self._whole_penalty(layer))
        rating = self._score(user, movie, features)
        return rating if training else tf.clip_by_value(rating, self.low, self.high)

    def _score(
        self, user: tf.Tensor, movie: tf.Tensor, features: dict[str, tf.Tensor | tf.RaggedTensor]
    ) -> tf.Tensor:
        single = [user, movie, self.year(features["year"]), self.popularity(features["popularity"])]
        ragged = features["genres"]
        if not isinstance(ragged, tf.RaggedTensor):  # a feed whose movies all have as many genres
            ragged = tf.RaggedTensor.from_tensor(ragged)
        rows, count = ragged.value_rowids(), ragged.nrows()
        length = tf.cast(tf.gather(ragged.row_lengths(), rows), tf.float32)
        genre = self.genre(ragged.values) * tf.math.rsqrt(length)[:, tf.newaxis]
        # Not segment_sum: that would drop the last ratings of a batch if they had no genre.
        total = tf.add_n([*single, tf.math.unsorted_segment_sum(genre, rows, count)])
        squares = tf.add_n(
            [
                *(tf.square(term) for term in single),
                tf.math.unsorted_segment_sum(tf.square(genre), rows, count),
            ]
        )
        pairwise = 0.5 * tf.reduce_sum(tf.square(total[:, 1:]) - squares[:, 1:], axis=1)
        return self.bias + total[:, 0] + pairwise

    def _penalty(self, rows: tf.Tensor, ratings: tf.Tensor) -> tf.Tensor:
        """The batch's mean share of the penalty; rows [B, 1 + rank], ratings int [B] -> []."""
        per_rating = tf.linalg.matvec(tf.square(rows), tf.constant(self.row_penalty))
        return tf.reduce_mean(per_rating / tf.cast(ratings, tf.float32))

    def _whole_penalty(self, layer: FeatureTable) -> tf.Tensor:
        """One rating's share of a whole table's penalty -> []."""
        squares = tf.reduce_sum(tf.square(layer.embeddings.value), axis=0)
        return tf.tensordot(squares, tf.constant(self.row_penalty), 1) / self.train_rows
