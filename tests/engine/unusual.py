"""Tasks that are no classifiers: several optimizers, and batches that depend on the model."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from assay.engine import Batch, Evaluation, Metric, Recipe, Run, Splits, Task, TensorExamples


class DigitsGAN(Task):
    """Generator and discriminator of 8x8 digits, each with an optimizer of its own (Goodfellow et al., 2014)."""

    name = "digits-gan"
    metrics = (Metric("mean_gap", "min", 8.0), Metric("spread_gap", "min", 8.0))
    recipe = Recipe(optimizer="adam", lr=2e-3, momentum=0.5, batch_size=64)
    budget = "12epochs"

    def splits(self, seed):
        x = torch.from_numpy(load_digits().data).float() / 8 - 1
        data = TensorExamples(x, torch.zeros(len(x)))
        return Splits(data, data, None)

    def model(self):
        generator = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
        judge = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(64, 1))
        return nn.ModuleDict({"generator": generator, "discriminator": judge})

    def parameters(self, model):
        return {name: list(part.parameters()) for name, part in model.items()}

    def step(self, run: Run, batch: Batch):
        generator, judge = (run.forward_module[name] for name in ("generator", "discriminator"))
        fake = generator(torch.randn(len(batch.x), 16, device=run.device))
        of_true, of_fake = judge(batch.x), judge(fake.detach())
        judged = F.softplus(-of_true).mean() + F.softplus(of_fake).mean()
        run.backward(judged, "discriminator")
        run.update("discriminator")
        fooled = F.softplus(-judge(fake)).mean()
        run.backward(fooled, "generator")
        run.update("generator")
        run.log("generator_loss", fooled.item())
        run.log("discriminator_loss", judged.item())
        return judged.detach() + fooled.detach()

    def evaluate(self, run: Run, examples, batch_size=500):
        if examples is None:
            return Evaluation({}, {})
        fake, true = run.forward_module["generator"](torch.randn(2000, 16, device=run.device)), examples.x
        gaps = {"mean_gap": (fake.mean(0) - true.mean(0)).norm(), "spread_gap": (fake.std(0) - true.std(0)).norm()}
        return Evaluation({name: gap.item() for name, gap in gaps.items()}, {})


class Grid:
    """`size` x `size` squares, from the first to the last, -1 a move, at most `longest` moves; many games at once."""

    def __init__(self, games: int, size: int = 4, longest: int = 30):
        self.size, self.longest = size, longest
        self.at, self.moves, self.over = np.zeros((games, 2), np.int64), 0, np.zeros(games, bool)

    def seen(self) -> torch.Tensor:
        return F.one_hot(torch.from_numpy(self.at[:, 0] * self.size + self.at[:, 1]), self.size**2).float()

    def move(self, actions: np.ndarray) -> np.ndarray:
        ways = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[actions]
        reward = np.where(self.over, 0.0, -1.0)
        self.at = np.where(self.over[:, None], self.at, np.clip(self.at + ways, 0, self.size - 1))
        self.moves += 1
        self.over |= (self.at == self.size - 1).all(1) | (self.moves == self.longest)
        return reward


def play(policy, games: int, generator: torch.Generator):
    """States, actions, rewards and who was still playing, each [moves, games]."""
    grid, states, actions, rewards, playing = Grid(games), [], [], [], []
    while not grid.over.all():
        seen = grid.seen()
        with torch.no_grad():
            chosen = torch.multinomial(policy(seen).softmax(1), 1, generator=generator)[:, 0]
        states.append(seen)
        playing.append(torch.from_numpy(~grid.over))
        actions.append(chosen)
        rewards.append(torch.from_numpy(grid.move(chosen.numpy())).float())
    return [torch.stack(part) for part in (states, actions, rewards, playing)]


class Games:
    """A stream of games that the policy plays as it is now; there are no epochs in it."""

    steps_per_epoch = None
    epoch = 0.0

    def __init__(self, run: Run, games: int) -> None:
        self.run, self.games, self.moves = run, games, 0
        self.generator = torch.Generator().manual_seed(run.seed_for("order"))

    def next(self) -> Batch:
        states, actions, rewards, playing = play(self.run.forward_module, self.games, self.generator)
        returns = rewards.flip(0).cumsum(0).flip(0)
        advantage = returns - returns.sum(1, keepdim=True) / playing.sum(1, keepdim=True)
        ids = torch.arange(self.moves, self.moves + int(playing.sum()))
        self.moves += len(ids)
        return Batch(states[playing], {"action": actions[playing], "advantage": advantage[playing]}, ids)

    def state_dict(self):
        return {"generator": self.generator.get_state(), "moves": self.moves}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.moves = state["moves"]


class Corner(Task):
    """REINFORCE (Williams, 1992) on `Grid`: find the far corner."""

    name = "corner"
    metrics = (Metric("return", "max", -30.0),)
    recipe = Recipe(optimizer="adam", lr=0.03, batch_size=16)
    budget = "60steps"

    def model(self):
        return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))

    def stream(self, run):
        return Games(run, run.recipe.batch_size)

    def objective(self, run, batch):
        chosen = run.forward(batch.x).log_softmax(1).gather(1, batch.y["action"][:, None])[:, 0]
        return -(chosen * batch.y["advantage"]).mean()

    def evaluate(self, run, examples, batch_size=500):
        generator = torch.Generator().manual_seed(1)
        return Evaluation({"return": play(run.forward_module, 100, generator)[2].sum(0).mean().item()}, {})
