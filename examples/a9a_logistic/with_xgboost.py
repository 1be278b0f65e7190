"""Boosted trees for the same rows, by XGBoost in each process of a gang.

    bin/pl_submit --strategy gang --num-workers 2 examples/a9a_logistic/with_xgboost.py \
        --data DIR/a9a
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from app import A9aLogistic
from quality import quality

SAVE_EVERY = 10


class A9aXGBoost(A9aLogistic):
    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--rounds", type=int, default=60, help="trees")
        parser.add_argument("--depth", type=int, default=6, help="of a tree")

    def train(self, ctx: Any) -> dict[str, float]:
        """Trains, or goes on from the newest checkpoint, and evaluates in rank 0."""
        import xgboost as xgb

        args = self.args
        newest = ctx.checkpoint.newest()
        model = None if newest is None else xgb.Booster(model_file=newest / "model.ubj")
        done = 0 if model is None else model.num_boosted_rounds()
        # all rows of the share at once, the same in each life
        ((features, label),) = ctx.dataset("train", None, label="label").in_order().numpy()

        class Save(xgb.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                ctx.report(rounds=model.num_boosted_rounds())
                if ctx.is_chief and (
                    model.num_boosted_rounds() % SAVE_EVERY == 0 or ctx.checkpoint.due()
                ):
                    with tempfile.TemporaryDirectory() as local:
                        model.save_model(Path(local, "model.ubj"))
                        ctx.checkpoint.save_dir(local, model.num_boosted_rounds())
                return False

        with xgb.collective.CommunicatorContext(**ctx.rabit()):
            model = xgb.train(
                {"objective": "binary:logitraw", "max_depth": args.depth, "eta": 0.1},
                xgb.DMatrix(features["features"], label),
                args.rounds - done,
                xgb_model=model,
                callbacks=[Save()],
            )
        if not ctx.is_chief:
            return {}
        ((features, label),) = ctx.dataset("test", None, label="label").whole().numpy()
        return quality(model.predict(xgb.DMatrix(features["features"])), label)
