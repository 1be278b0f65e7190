"""What tfos.ml.TFEstimator trains, which learns label = 2 x: apps, and a model's function."""

import tfos


class Line(tfos.TFOnSparkApp):
    """Has no pre_train(): it trains on what fit() is given."""

    mean = 0.0

    def train(self, ctx):
        import keras

        keras.utils.set_random_seed(1)
        dataset = ctx.dataset("train", 32, label="label")
        (name,) = [column.name for column in dataset.feature_columns]
        with ctx.strategy.scope():
            x = keras.Input((), name=name)
            centred = keras.layers.Rescaling(1.0, -self.mean)(keras.layers.Reshape((1,))(x))
            model = keras.Model({name: x}, keras.layers.Dense(1)(centred))
            model.compile(keras.optimizers.SGD(0.1), "mse")
        ctx.fit(model, dataset, epochs=ctx.params["epochs"])
        if ctx.params.get("export", True):
            ctx.export(model)
        return {"epochs": ctx.params["epochs"], "mean": self.mean}


class Centred(Line):
    def pre_train(self, spark):
        self.mean = self.fit_data.agg({"x": "mean"}).first()[0]
        return {"train": self.fit_data, "other": spark.range(3)}


def line(ctx):
    import keras

    keras.utils.set_random_seed(1)
    x = keras.Input((), name="x")
    model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Reshape((1,))(x)))
    model.compile(keras.optimizers.SGD(ctx.params["rate"]), "mse")
    return model
