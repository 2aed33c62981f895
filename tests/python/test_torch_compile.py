"""fi.torch under torch.compile: no graph breaks, and the bytes of eager mode."""

import gc

import numpy as np
import pytest
import torch
from torch import library, nn

import fastinc as fi

# torch's own
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Skipping serialization:UserWarning"
)


class Model(nn.Module):
    """Two modules of one table, one of another; bags told in every way; weights that learn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        options = {"optimizer": fi.Adagrad(lr=0.1), "init": fi.init.Normal(std=0.5, seed=5)}
        self.first, self.second = fi.EmbeddingTable(8, **options), fi.EmbeddingTable(8, **options)
        self.users = fi.torch.Embedding(self.first, padding_idx=3)
        self.items = fi.torch.EmbeddingBag(self.first, "mean", padding_idx=3)
        self.tags = fi.torch.EmbeddingBag(self.second, "sum", output_dtype=torch.bfloat16)
        self.weigh = nn.Linear(8, 6)
        self.top = nn.Linear(24, 1)

    def forward(self, users, items, tags, lengths):
        rows = self.users(users)
        weights = torch.softmax(self.weigh(rows), 1)
        bags = self.items(items, lengths=lengths)
        tags = self.tags(tags, per_sample_weights=weights).float()
        return self.top(torch.cat([rows, bags, tags], 1)).squeeze(1)


def batches(count):
    random = np.random.default_rng(2)
    for _ in range(count):
        users, items = random.integers(0, 40, 16), random.integers(0, 40, 50)
        lengths = random.multinomial(50, np.full(16, 1 / 16))
        arrays = (users, items, random.integers(0, 40, (16, 6)), lengths)
        yield tuple(map(torch.from_numpy, arrays)), torch.from_numpy(random.integers(0, 2, 16).astype(np.float32))


def train(model, call, count=8):
    losses = []
    dense = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in batches(count):
        loss = nn.functional.binary_cross_entropy_with_logits(call(*inputs), labels)
        dense.zero_grad()
        loss.backward()
        dense.step()
        losses.append(loss.item())
    return losses


def states(model):
    return [table.__getstate__()["state"] for table in (model.first, model.second)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_training_is_eager_training(backend):
    torch._dynamo.reset()
    model, compiled = Model(), Model()
    expected = train(model, model)
    got = train(compiled, torch.compile(compiled, fullgraph=True, backend=backend))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for state, reference in zip(states(compiled), states(model), strict=True):
        assert np.array_equal(state["ids"], reference["ids"])
        assert state["version"] == reference["version"] == 8
        np.testing.assert_allclose(state["weights"], reference["weights"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients_outlive_the_memory_that_a_graph_uses_again(backend):
    torch._dynamo.reset()
    stepped = []
    for compiles in (False, True):
        table = fi.EmbeddingTable(16, fi.SGD(lr=1.0), fi.init.Normal(std=0.5, seed=5))
        embedding = fi.torch.Embedding(table)
        torch.manual_seed(1)
        inputs, weight = torch.randn(16, 16), torch.randn(16, 16, requires_grad=True)

        def loss(inputs, ids, embedding=embedding, weight=weight):
            hidden = torch.tanh(inputs @ weight)
            return (hidden * embedding(ids * 2)).sin().sum()

        call = torch.compile(loss, fullgraph=True, backend=backend) if compiles else loss
        call(inputs, torch.arange(16)).backward()
        stepped.append(table.lookup(np.arange(32)))
    np.testing.assert_allclose(stepped[1], stepped[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_equal_uses_are_not_merged(backend):
    torch._dynamo.reset()
    table = fi.EmbeddingTable(4, fi.SGD(lr=1.0), fi.init.Zeros())
    embedding = fi.torch.Embedding(table)
    ids = torch.tensor([1])
    torch.compile(lambda ids: (embedding(ids) + embedding(ids)).sum(), fullgraph=True, backend=backend)(ids).backward()
    assert table.lookup([1])[0, 0] == -2.0
    assert table.version == 1


def test_compiled_reading_and_freezing():
    torch._dynamo.reset()
    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ((inputs, _),) = batches(1)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), model(*inputs))
    compiled.eval()
    compiled(*inputs).sum().backward()
    assert model.first.version == 0
    compiled.train()
    model.users.requires_grad_(False)
    model.items.requires_grad_(False)
    compiled(*inputs).sum().backward()
    assert (model.first.version, model.second.version) == (0, 1)


def test_accumulating_in_compiled_graphs():
    torch._dynamo.reset()
    table, twin = (fi.EmbeddingTable(4, fi.Adagrad(lr=0.1)) for _ in range(2))
    model = nn.Sequential(fi.torch.EmbeddingBag(table), nn.Linear(4, 1))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = torch.tensor([[1, 2], [2, 3]])
    with fi.torch.accumulate():
        compiled(ids).sum().backward()
    assert table.version == 0
    compiled(ids).sum().backward()
    grads = (model[1].weight.detach() / 2).expand(8, 4).numpy()
    twin.update(ids.reshape(-1).repeat(2).numpy(), np.ascontiguousarray(grads))
    assert table.version == 1
    np.testing.assert_allclose(table.lookup([1, 2, 3]), twin.lookup([1, 2, 3]), rtol=1e-6)


def test_operators_are_what_torch_asks_of_them():
    embedding = fi.torch.EmbeddingBag(fi.EmbeddingTable(4), "sum")
    number = embedding._use.number
    ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 2])
    for keep in (False, True):
        weights = torch.rand(3) if keep else None
        tensors = (embedding.grad_anchor.detach(), ids, offsets, weights, torch.empty(0), number)
        arguments = (*tensors, 4, torch.float32, False, keep)
        library.opcheck(torch.ops.fastinc.read.default, arguments)


def test_layers_that_are_compiled_one_by_one_share_graphs():
    torch._dynamo.reset()
    tables = [fi.EmbeddingTable(4, fi.SGD(lr=1.0), fi.init.Zeros()) for _ in range(12)]  # more than dynamo recompiles
    layers = [torch.compile(fi.torch.Embedding(table), fullgraph=True, backend="aot_eager") for table in tables]
    for n, layer in enumerate(layers):
        (layer(torch.tensor([1, n + 2])) * (n + 1)).sum().backward()
    for n, table in enumerate(tables):
        assert table.lookup([1, n + 2]).tolist() == [[-n - 1.0] * 4] * 2


def test_modules_that_are_gone_before_the_backward():
    torch._dynamo.reset()
    embedding = fi.torch.Embedding(fi.EmbeddingTable(4))
    out = torch.compile(embedding, fullgraph=True, backend="aot_eager")(torch.tensor([1])).sum()
    del embedding
    torch._dynamo.reset()
    gc.collect()
    with pytest.raises(RuntimeError, match="is gone, or of another process: keep it"):
        out.backward()


def test_gradients_of_other_inputs_step_in_compiled_graphs():
    torch._dynamo.reset()
    table, scale = fi.EmbeddingTable(4), torch.ones(4, requires_grad=True)
    embedding = fi.torch.Embedding(table)
    call = torch.compile(lambda ids: (embedding(ids) * scale).sum(), fullgraph=True, backend="aot_eager")
    torch.autograd.grad(call(torch.tensor([1])), scale)
    assert table.version == 1  # unlike eager mode: such graphs make all gradients at once


def test_compiled_autograd_is_refused():
    """It has no end of a pass: the table would never learn."""
    torch._dynamo.reset()
    table = fi.EmbeddingTable(4)
    model = nn.Sequential(fi.torch.Embedding(table), nn.Linear(4, 1))
    # torch 2.6 fails there by itself.
    words = None if torch.__version__.startswith("2.6.") else "compiled autograd doesn't tell when a backward ends"
    with torch._dynamo.config.patch(compiled_autograd=True), pytest.raises(Exception, match=words):
        torch.compile(lambda ids: model(ids).sum().backward(), backend="aot_eager")(torch.tensor([1, 2]))
    assert table.version == 0
