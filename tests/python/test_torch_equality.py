"""Models over tables learn what they learn over torch's own sparse modules: the same losses, step by step.

The batches are full of equal ids. fastinc sums their gradients and takes one step a row, and so do torch's Adagrad and
SparseAdam, which coalesce first. For Adagrad and Adam a step for each would be another algorithm; for SGD, whose step
is linear in the gradient, it is the same but for rounding (torch's SGD does that).

SparseAdam counts steps for the whole table and adds eps in another place. fi.Adam's formula, with a count for each row,
stands here in torch, on the gradients that torch coalesces.

The models have tanh for ReLU: at ReLU's kink it is rounding that decides whether there is a gradient, and of one that
is nearly nothing Adagrad's and Adam's first steps are as long as of any other.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi

torch = pytest.importorskip("torch", reason="torch is not installed")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import dlrm  # noqa: E402
import two_tower  # noqa: E402

STEPS = 200
EPS = 1e-8
#: By name: fastinc's and torch's, of a learning rate, and the rate.
OPTIMIZERS = {
    "sgd": (lambda lr: fi.SGD(lr), lambda weights, lr: torch.optim.SGD(weights, lr), 5.0),
    "adagrad": (lambda lr: fi.Adagrad(lr, EPS), lambda weights, lr: torch.optim.Adagrad(weights, lr, eps=EPS), 0.05),
    "adam": (lambda lr: fi.Adam(lr, eps=EPS), lambda weights, lr: RowAdam(weights, lr, EPS), 0.01),
}
by_optimizer = pytest.mark.parametrize("optimizer", list(OPTIMIZERS))


class RowAdam:
    """fi.Adam's formula on coalesced sparse gradients, in float32: t counts the steps of each row."""

    def __init__(self, weights, lr, eps, beta1=0.9, beta2=0.999):
        self.weights, self.lr, self.eps, self.beta1, self.beta2 = list(weights), lr, eps, beta1, beta2
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.v = [torch.zeros_like(w) for w in self.weights]
        # 1 - 0.999**t is of few digits in float32.
        self.t = [torch.zeros(len(w), 1, dtype=torch.float64) for w in self.weights]

    @torch.no_grad()
    def step(self):
        for w, m, v, t in zip(self.weights, self.m, self.v, self.t, strict=True):
            gradient = w.grad.coalesce()
            rows, total = gradient.indices()[0], gradient.values()
            t[rows] += 1.0
            m[rows] = self.beta1 * m[rows] + (1 - self.beta1) * total
            v[rows] = self.beta2 * v[rows] + (1 - self.beta2) * total**2
            first, second = ((1 - beta ** t[rows]).float() for beta in (self.beta1, self.beta2))
            w[rows] -= self.lr * (m[rows] / first) / ((v[rows] / second).sqrt() + self.eps)

    def zero_grad(self):
        for w in self.weights:
            w.grad = None


@pytest.fixture(autouse=True)
def quiet(one_thread):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()  # the default, and no warning that it is
    yield
    torch.set_num_threads(before)


def table_of(weight, optimizer):
    table = fi.EmbeddingTable(weight.shape[1], optimizer)
    table.load(torch.arange(len(weight)), weight.detach())
    return table


def without_kinks(*parts):
    for part in parts:
        for at, layer in enumerate(part):
            if isinstance(layer, torch.nn.ReLU):
                part[at] = torch.nn.Tanh()


def assert_same_course(ours, theirs):
    """The same losses at every step, and some way to go: a model that stands still proves nothing."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert len(ours) == STEPS
    assert np.mean(ours[-10:]) < 0.97 * np.mean(ours[:10])


def assert_same_rows(tables, weights, starts):
    """Rows of the same values, which aren't those of the start."""
    for table, weight, start in zip(tables, weights, starts, strict=True):
        moved = (weight.detach() - start).abs().max().item()
        assert moved > 0.1
        rows = table.lookup(np.arange(len(weight)))
        np.testing.assert_allclose(rows, weight.detach().numpy(), rtol=1e-4, atol=1e-4 * moved)


@by_optimizer
def test_dlrm(optimizer):
    ours, theirs, lr = OPTIMIZERS[optimizer]
    cardinalities, rows, dim = (3, 10, 30, 100, 300, 1000), 1000, 8
    batches = list(dlrm.generate(STEPS, 128, cardinalities, hashed=False))
    assert all(len(np.unique(ids)) < len(ids) for batch in batches for ids in batch.ids)
    torch.manual_seed(0)
    starts = [torch.randn(rows, dim) * 0.3 for _ in cardinalities]
    reference = dlrm.TorchEmbeddings(len(cardinalities), rows, dim, "sgd", lr)
    weights = list(reference.bags.parameters())
    for weight, start in zip(weights, starts, strict=True):
        weight.data.copy_(start)
    reference.optimizer = theirs(weights, lr)
    subject = dlrm.FastincEmbeddings(len(cardinalities), rows, dim, "sgd", lr)
    shared = ours(lr)
    tables = [table_of(start, shared) for start in starts]
    subject.bags = torch.nn.ModuleList(fi.torch.EmbeddingBag(table, mode="sum") for table in tables)

    losses = []
    for embeddings in (subject, reference):
        torch.manual_seed(1)
        model = dlrm.Dlrm(embeddings, len(cardinalities), dim)
        without_kinks(model.bottom, model.top)
        dense = torch.optim.SGD(model.dense_parameters(), lr=0.1)
        losses.append([dlrm.train_step(model, dense, batch) for batch in batches])
    assert_same_course(*losses)
    assert_same_rows(tables, weights, starts)


def learn_towers(model, columns, size, step):
    """Return the losses of the steps; `step` steps what holds the rows, after each backward pass."""
    dense = torch.optim.SGD(model.mlp.parameters(), lr=0.05)
    losses = []
    epochs = (torch.randperm(len(columns[0])).split(size)[:-1] for _ in itertools.count())
    for batch in itertools.islice(itertools.chain.from_iterable(epochs), STEPS):
        loss = model.loss(*(column[batch] for column in columns))
        dense.zero_grad()
        loss.backward()
        dense.step()
        step()
        losses.append(loss.item())
    return losses


@by_optimizer
def test_two_towers(optimizer):
    ours, theirs, lr = OPTIMIZERS[optimizer]
    counts, dim = (60, 100), 8
    events = fi.datasets.synthetic(1500, *counts, seed=3)
    columns = [torch.from_numpy(each) for each in (events.users, events.items, two_tower.log_shares(events.items))]
    torch.manual_seed(0)
    starts = [torch.randn(rows, dim) * 0.3 for rows in counts]
    reference = [torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=True) for start in starts]
    weights = [module.weight for module in reference]
    sparse = theirs(weights, lr)
    shared = ours(lr)
    tables = [table_of(start, shared) for start in starts]

    def step():
        sparse.step()
        sparse.zero_grad()

    losses = []
    for modules, after in ((map(fi.torch.Embedding, tables), lambda: None), (reference, step)):
        torch.manual_seed(1)
        model = two_tower.TwoTowers(*modules, dim)
        without_kinks(model.mlp)
        losses.append(learn_towers(model, columns, 64, after))
    assert_same_course(*losses)
    assert_same_rows(tables, weights, starts)


@by_optimizer
def test_equal_ids_of_a_batch_are_one_step(optimizer):
    ours, theirs, lr = OPTIMIZERS[optimizer]
    ids = torch.tensor([3, 5, 3, 3])
    grads = torch.tensor([[1.0, -2.0], [4.0, 0.5], [0.25, -1.0], [3.0, 7.0]])
    start = torch.zeros(6, 2)
    module = torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=True)
    sparse = theirs([module.weight], lr)
    module(ids).backward(grads)
    sparse.step()
    together, apart = table_of(start, ours(lr)), table_of(start, ours(lr))
    fi.torch.Embedding(together)(ids).backward(grads)
    for id, grad in zip(ids, grads, strict=True):
        fi.torch.Embedding(apart)(id).backward(grad)
    rows = together.lookup(np.arange(6))
    np.testing.assert_allclose(rows, module.weight.detach().numpy(), rtol=1e-6)
    differs = not np.allclose(apart.lookup([3]), rows[3], rtol=1e-2)
    assert differs == (optimizer != "sgd")
    np.testing.assert_allclose(apart.lookup([5])[0], rows[5], rtol=1e-6)
