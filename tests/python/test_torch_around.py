"""Around fi.torch's modules: conversion, schedulers, DataLoader workers, older releases' refusal."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import fastinc as fi

# --- from and to torch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 4])
def test_an_embedding_there_and_back(padding_idx):
    theirs = nn.Embedding(10, 4, padding_idx=padding_idx)
    ours = fi.torch.from_embedding(theirs, fi.SGD(lr=1.0))
    ids = torch.tensor([[1, 4], [9, 0]])
    assert torch.equal(ours(ids), theirs(ids))
    ours(ids).sum().backward()
    back = fi.torch.to_embedding(ours)
    assert (back.sparse, back.padding_idx) == (True, padding_idx)
    assert torch.equal(back(ids), ours(ids))
    expected = theirs.weight.detach().clone()
    expected[[i for i in (1, 4, 9, 0) if i != padding_idx]] -= 1.0
    assert torch.equal(back.weight, expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 4}, {"include_last_offset": True}])
def test_bags_there_and_back(mode, options):
    theirs = nn.EmbeddingBag(10, 4, mode=mode, **options)
    ours = fi.torch.from_embedding(theirs)
    arguments = torch.tensor([1, 4, 9, 4]), torch.tensor([0, 2, 4])
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))
    back = fi.torch.to_embedding(ours)
    torch.testing.assert_close(back(*arguments), theirs(*arguments))
    assert all(getattr(back, name) == value for name, value in {"mode": mode, **options}.items())


def test_what_is_frozen_half_or_in_eval_stays_so():
    theirs = nn.Embedding.from_pretrained(torch.ones(3, 2).half()).eval()
    ours = fi.torch.from_embedding(theirs)
    assert ours(torch.tensor([1])).dtype == torch.float16
    assert not ours.training
    assert not ours.train()(torch.tensor([1])).requires_grad


def test_options_are_the_tables():
    module = fi.torch.from_embedding(nn.Embedding(3, 2), fi.Adam(lr=0.5), init=fi.init.Constant(7.0), max_rows=5)
    assert (module.table.optimizer, module.table.max_rows) == (fi.Adam(lr=0.5), 5)
    assert module(torch.tensor([100])).tolist() == [[7.0, 7.0]]


def test_a_table_becomes_an_embedding():
    table = fi.EmbeddingTable(2, init=fi.init.Constant(0.5))
    table.load([1, 3], np.array([[1, 2], [3, 4]], np.float32))
    assert fi.torch.to_embedding(table).weight.tolist() == [[0.5, 0.5], [1, 2], [0.5, 0.5], [3, 4]]
    assert len(fi.torch.to_embedding(table, 6).weight) == 6
    assert len(fi.torch.to_embedding(fi.EmbeddingTable(2)).weight) == 0


def test_what_cannot_be_converted():
    cases = (
        (nn.Linear(2, 2), TypeError, "module is a Linear"),
        (nn.Embedding(3, 2, max_norm=1.0), ValueError, r"module has max_norm = 1\.0"),
        (nn.Embedding(3, 2, scale_grad_by_freq=True), ValueError, "scale_grad_by_freq"),
        (nn.EmbeddingBag(3, 2, mode="max"), ValueError, "mode = 'max'"),
        (nn.Embedding.from_pretrained(torch.ones(3, 2), padding_idx=1), ValueError, "padding_idx = 1 isn't zeros"),
    )
    for module, kind, words in cases:
        with pytest.raises(kind, match=words):
            fi.torch.from_embedding(module)
    table = fi.EmbeddingTable(2)
    table.load([5], np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="num_embeddings = 5 leaves out id 5"):
        fi.torch.to_embedding(table, 5)
    with pytest.raises(ValueError, match="padding_idx = 9 isn't below num_embeddings = 6"):
        fi.torch.to_embedding(fi.torch.Embedding(table, padding_idx=9))
    table.load([10**6], np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="2 ids up to 1000000; say how many"):
        fi.torch.to_embedding(table)
    table.load([-1], np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="the table has id -1"):
        fi.torch.to_embedding(table)


# --- schedulers ---------------------------------------------------------------------------------------------


def dense(lr=0.01):
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


def test_rates_follow_by_the_same_factor():
    tables = [fi.EmbeddingTable(2, fi.SGD(lr=lr)) for lr in (0.5, 0.1)]
    optimizer = dense()
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    schedule = fi.torch.scheduler(tables, warm_up)
    for factor in (0.25, 0.5, 0.75, 1.0, 1.0):
        assert schedule.get_last_lr() == pytest.approx([0.5 * factor, 0.1 * factor])
        assert tables[0].optimizer.lr == pytest.approx(0.5 * factor)
        optimizer.step()
        schedule.step()


def test_plateaus():
    table, optimizer = fi.EmbeddingTable(2, fi.SGD(lr=0.5)), dense()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    schedule = fi.torch.scheduler(table, plateau)
    for loss in (1.0, 2.0):
        schedule.step(loss)
    assert table.optimizer.lr == 0.25


def test_a_schedule_goes_on_where_it_was():
    def make(lr, dense_lr=0.01):
        table, optimizer = fi.EmbeddingTable(2, fi.SGD(lr=lr)), dense(dense_lr)
        step = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return table, optimizer, fi.torch.scheduler(table, step)

    table, optimizer, schedule = make(0.5)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    other, other_optimizer, other_schedule = make(9.0, 0.1)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other_schedule.load_state_dict(schedule.state_dict())
    for _ in range(3):
        assert other.optimizer.lr == table.optimizer.lr
        for each in (optimizer, other_optimizer, schedule, other_schedule):
            each.step()
    assert table.optimizer.lr == 0.0625
    with pytest.raises(ValueError, match="state is of 2 tables, not of 1"):
        schedule.load_state_dict({**schedule.state_dict(), "bases": [1.0, 2.0]})


def test_what_cannot_be_followed():
    table = fi.EmbeddingTable(2)
    step = torch.optim.lr_scheduler.StepLR(dense(), 1)
    with pytest.raises(TypeError, match="tables has a int"):
        fi.torch.scheduler([table, 3], step)
    with pytest.raises(TypeError, match="torch_scheduler = 3 must be"):
        fi.torch.scheduler(table, 3)
    with pytest.raises(ValueError, match="learning rate is 0"):
        fi.torch.scheduler(table, torch.optim.lr_scheduler.StepLR(dense(0.0), 1))


# --- DataLoader workers -------------------------------------------------------------------------------------


class Reads(Dataset):
    """Reads a table in the worker."""

    def __init__(self, table):
        self.table, self.embedding = table, fi.torch.Embedding(table)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        with torch.no_grad():
            row = self.embedding(torch.tensor([i]))[0]
        assert np.array_equal(self.table.lookup([i])[0], row.numpy())
        return i, row


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_read_tables(method):
    table = fi.EmbeddingTable(8, init=fi.init.Normal(std=1.0))
    table.update(np.arange(30), np.ones((30, 8), np.float32))
    loader = DataLoader(Reads(table), batch_size=8, num_workers=2, multiprocessing_context=method)
    for ids, rows in loader:
        assert np.array_equal(rows.numpy(), table.lookup(ids.numpy()))
    fi.torch.Embedding(table)(torch.arange(3)).sum().backward()  # the parent goes on
    assert table.version == 2


# --- torch is wanted where it is used -----------------------------------------------------------------------


def test_importing_fastinc_imports_no_torch():
    code = "import sys, fastinc as fi; print('torch' in sys.modules); fi.torch.Embedding; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_torch_the_extra_is_named():
    code = "import sys; sys.modules['torch'] = None; import fastinc as fi; fi.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: fastinc.torch needs torch, which is not installed: pip install 'fastinc[torch]'" in done.stderr


def test_there_is_no_other_attribute():
    with pytest.raises(AttributeError, match="module 'fastinc' has no attribute 'torches'"):
        fi.torches  # noqa: B018


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, of what is refused here
def test_fake_tensors_and_traced_graphs():
    """Whoever looks at operators sees one, and not the rows of the time."""
    table = fi.EmbeddingTable(2, init=fi.init.Constant(1.0))
    embedding, ids = fi.torch.Embedding(table).eval(), torch.tensor([1, 2])
    graph = make_fx(lambda ids: embedding(ids) * 2)(ids)
    table.load([1], np.full((1, 2), 3.0, np.float32))
    assert graph(ids).tolist() == [[6.0, 6.0], [2.0, 2.0]]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert embedding(mode.from_tensor(ids)).shape == (2, 2)
    with pytest.raises(RuntimeError, match=r"use torch\.compile or torch\.export"):
        torch.jit.trace(embedding, (ids,), check_trace=False)


def test_flops_are_counted_while_it_learns():
    table = fi.EmbeddingTable(2, fi.SGD(lr=1.0), fi.init.Zeros())
    model = torch.nn.Sequential(fi.torch.Embedding(table), torch.nn.Linear(2, 3, bias=False))
    with FlopCounterMode(display=False) as counter:
        model(torch.tensor([1, 2])).sum().backward()
    assert counter.get_total_flops() > 0
    assert table.version == 1


def test_modules_made_under_another_default_device():
    table = fi.EmbeddingTable(2, init=fi.init.Constant(1.0))
    with torch.device("meta"):
        embedding = fi.torch.Embedding(table)
        assert embedding._use.number.device.type == "cpu"
    embedding = embedding.to_empty(device="cpu")
    torch._dynamo.reset()
    out = torch.compile(embedding, fullgraph=True, backend="aot_eager")(torch.tensor([1]))
    assert out.tolist() == [[1.0, 1.0]]
    out.sum().backward()
    assert table.version == 1


def test_weights_of_samples_are_floating_point_tensors():
    bag = fi.torch.EmbeddingBag(fi.EmbeddingTable(2), "sum")
    with pytest.raises(TypeError, match="per_sample_weights must be a tensor, not list"):
        bag(torch.tensor([[1]]), per_sample_weights=[[1.0]])
    with pytest.raises(TypeError, match=r"per_sample_weights has dtype torch\.int64"):
        bag(torch.tensor([[1]]), per_sample_weights=torch.tensor([[1]]))


def test_a_scheduler_of_a_module_says_what_to_pass():
    dense = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    module = fi.torch.Embedding(fi.EmbeddingTable(2))
    for wrong in (module, [module]):
        with pytest.raises(TypeError, match=r"of a module pass module\.table"):
            fi.torch.scheduler(wrong, dense)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="not Linux")
def test_the_engine_has_no_libtorch():
    """Nor does the package import torch before somebody asks for fi.torch."""
    code = "import sys, fastinc; print('torch' in sys.modules, 'libtorch' in open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
