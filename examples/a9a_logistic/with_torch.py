"""The same models in PyTorch: DistributedDataParallel, in each process of a gang.

bin/pl_submit --strategy gang --num-workers 2 examples/a9a_logistic/with_torch.py --data DIR/a9a
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from app import A9aLogistic
from quality import quality


class A9aTorch(A9aLogistic):
    def train(self, ctx: Any) -> dict[str, float]:
        """Trains, or goes on from the newest checkpoint, and evaluates in rank 0."""
        import torch
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        args = self.args
        dist.init_process_group("gloo", timeout=ctx.timeout)
        train = ctx.dataset("train", args.batch_size // ctx.world_size, label="label")
        width, below = train.columns[0].length, []
        if args.hidden:
            hidden = torch.nn.Linear(width, args.hidden)
            torch.nn.init.xavier_uniform_(hidden.weight)
            torch.nn.init.zeros_(hidden.bias)
            width, below = args.hidden, [hidden, torch.nn.ReLU()]
        layer = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        net = torch.nn.Sequential(*below, layer)
        kernels = [part.weight for part in net if hasattr(part, "weight")]
        model = DistributedDataParallel(net)  # which gives all processes the weights of rank 0
        optimizer = torch.optim.Adam(model.parameters(), args.learning_rate, eps=1e-7)
        steps = args.epochs * train.steps_per_epoch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, steps, 0.01 * args.learning_rate
        )
        parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
        newest = ctx.checkpoint.newest()
        if newest is not None:
            state = torch.load(newest / "state.pt", weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])

        saved = -1

        def save() -> None:
            nonlocal saved
            if saved == schedule.last_epoch:  # at the end of an epoch one may have been due as well
                return
            saved = schedule.last_epoch
            with tempfile.TemporaryDirectory() as local:
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save(state, Path(local, "state.pt"))
                ctx.checkpoint.save_dir(local, schedule.last_epoch)

        loss_of = torch.nn.BCEWithLogitsLoss()
        penalty = 0.5 / (args.cost * self.train_rows)
        while train.epoch < args.epochs:
            for features, label in train.torch():
                optimizer.zero_grad()
                logits = model(features["features"].float()).squeeze(1)
                norm = sum(kernel.square().sum() for kernel in kernels)
                loss = loss_of(logits, label) + penalty * norm
                loss.backward()
                optimizer.step()
                schedule.step()
                if ctx.checkpoint.due():
                    save()
            ctx.report(loss=loss.item())
            if ctx.is_chief:
                save()
        dist.destroy_process_group()
        if not ctx.is_chief:
            return {}
        test = ctx.dataset("test", None, label="label").whole()
        ((features, label),) = test.torch()
        with torch.no_grad():
            logits = net(features["features"].float()).squeeze(1)
        return quality(logits.numpy(), label.numpy())
