"""fi.torch's modules: what they return, and what they are as modules."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastinc as fi
from _torch import device_fixture, equal, new_table, reference_bag, rows, tensor
from fastinc.torch import _gradients

device = device_fixture()

# --- forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding_has_the_shape_of_ids(device, shape, dtype):
    table = new_table(device)
    ids = torch.arange(torch.Size(shape).numel(), device=device, dtype=dtype).reshape(shape)
    out = fi.torch.Embedding(table)(ids)
    assert out.shape == (*shape, 4)
    assert out.device.type == device
    assert equal(out.detach().reshape(-1, 4), rows(table, ids.reshape(-1).cpu()))


def test_ids_that_are_no_block_of_memory():
    table = new_table()
    ids = torch.arange(12).reshape(3, 4)
    embedding, bag = fi.torch.Embedding(table), fi.torch.EmbeddingBag(table)
    assert equal(embedding(ids.T), embedding(ids.T.contiguous()))
    assert equal(embedding(ids[:, 1]), embedding(ids[:, 1].contiguous()))
    assert equal(bag(ids.T), bag(ids.T.contiguous()))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 5])
def test_bags_are_torchs(device, mode, padding_idx):
    table = new_table(device)
    ids, offsets = [5, 1, 5, 2, 7, 5, 1, 1], [0, 0, 3, 4, 4, 6, 8]
    expected, _ = reference_bag(table, ids, offsets, mode, padding_idx=padding_idx)
    bag = fi.torch.EmbeddingBag(table, mode, padding_idx=padding_idx)
    by_offsets = bag(tensor(ids, device), tensor(offsets, device))
    torch.testing.assert_close(by_offsets.cpu(), expected)
    assert equal(bag(tensor(ids, device), tensor(offsets, device, torch.int32)), by_offsets)
    lengths = np.diff([*offsets, len(ids)]).tolist()
    assert equal(bag(tensor(ids, device), lengths=tensor(lengths, device)), by_offsets)
    assert equal(bag(tensor(ids, device), lengths=tensor(lengths, device, torch.int32)), by_offsets)
    closed = fi.torch.EmbeddingBag(table, mode, padding_idx=padding_idx, include_last_offset=True)
    assert equal(closed(tensor(ids, device), tensor([*offsets, len(ids)], device)), by_offsets)


def test_bags_of_one_size(device):
    table = new_table(device)
    bag = fi.torch.EmbeddingBag(table, "sum")
    ids = tensor([[1, 2, 3], [3, 3, 4]], device)
    assert equal(bag(ids), bag(ids.reshape(-1), tensor([0, 3], device)))
    assert equal(bag(ids[:, :0]), torch.zeros(2, 4))
    assert bag(ids[:0]).shape == (0, 4)


def test_default_mode_is_torchs():
    assert fi.torch.EmbeddingBag(new_table())._use.mode == nn.EmbeddingBag(1, 1).mode == "mean"


def test_padding_is_zeros(device):
    table = new_table(device)
    out = fi.torch.Embedding(table, padding_idx=7)(tensor([[1, 7], [7, 2]], device))
    assert equal(out[0, 1], torch.zeros(4))
    assert equal(out[1, 0], torch.zeros(4))
    assert equal(out[1, 1], rows(table, [2])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_output_dtypes(device, dtype):
    table = new_table(device, optimizer=fi.SGD(lr=1.0))
    ids = tensor([3, 9], device)
    before = rows(table, [3, 9])
    for module in (fi.torch.Embedding(table, output_dtype=dtype), fi.torch.EmbeddingBag(table, output_dtype=dtype)):
        start = rows(table, [3, 9])
        out = module(ids if isinstance(module, fi.torch.Embedding) else ids.unsqueeze(1))
        assert out.dtype == dtype
        assert equal(out.detach(), start.to(dtype))
        out.backward(torch.full_like(out, 0.3))
        assert equal(rows(table, [3, 9]), start - torch.tensor(0.3, dtype=dtype).float())
    assert not equal(rows(table, [3, 9]), before)


def test_autocast_of_a_model():
    table = new_table(dim=8)
    model = nn.Sequential(fi.torch.EmbeddingBag(table, output_dtype=torch.bfloat16), nn.Linear(8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(tensor([[1, 2]]))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert sorted(table.ids()) == [1, 2]


# --- modules as modules -------------------------------------------------------------------------------------


def test_copies_have_tables_of_their_own():
    table = new_table()
    model = nn.Sequential(fi.torch.Embedding(table, padding_idx=3))
    model(tensor([1])).sum().backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[0].table is not table
        assert equal(twin(tensor([1, 3])), model(tensor([1, 3])))
        twin(tensor([1])).sum().backward()
        assert (twin[0].table.version, table.version) == (2, 1)


def test_copies_keep_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert copy.deepcopy(fi.torch.Embedding(new_table(), grad_scaler=scaler))._use.grad_scaler is scaler


def test_copies_of_modules_that_share_a_table_share_one():
    table = new_table()
    model = copy.deepcopy(nn.ModuleList([fi.torch.Embedding(table), fi.torch.EmbeddingBag(table)]))
    assert model[0].table is model[1].table is not table


def test_a_table_stays_as_it_is():
    table = new_table()
    model = nn.Sequential(fi.torch.Embedding(table), nn.Linear(4, 1)).half()
    assert model[1].weight.dtype == model[0].grad_anchor.dtype == torch.float16
    out = model[0](tensor([1]))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert table.version == 1


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_activation_checkpointing(use_reentrant, layers):
    """A forward that is run again in the backward reads the rows of the first time, and all count in one step."""
    tables = [new_table(optimizer=fi.Adagrad(lr=1.0)) for _ in range(2)]
    ids = tensor([1, 2, 1])
    for table, checkpointed in zip(tables, (False, True), strict=True):
        embedding = fi.torch.Embedding(table)

        def layer(x, embedding=embedding):
            return (embedding(ids) * x).sin()

        x = torch.ones(3, 4, requires_grad=True)
        for _ in range(layers):
            x = checkpoint(layer, x, use_reentrant=use_reentrant) if checkpointed else layer(x)
        (x.sum() + embedding(tensor([2])).sum()).backward()
    assert [table.version for table in tables] == [1, 1]
    torch.testing.assert_close(rows(tables[1], [1, 2]), rows(tables[0], [1, 2]))


def test_repr_names_table_and_options():
    text = repr(fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=3))
    assert text.startswith("EmbeddingBag(EmbeddingTable(dim=4")
    assert text.endswith("mode='sum', padding_idx=3)")


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_a_module_is_made_of_is_checked():
    table = new_table()
    with pytest.raises(TypeError, match="table = 3 must be a"):
        fi.torch.Embedding(3)
    with pytest.raises(ValueError, match="mode = 'max' must be 'sum' or 'mean'"):
        fi.torch.EmbeddingBag(table, "max")
    with pytest.raises(TypeError, match=r"padding_idx = 1\.5"):
        fi.torch.Embedding(table, padding_idx=1.5)
    with pytest.raises(ValueError, match=r"output_dtype = torch\.int8"):
        fi.torch.Embedding(table, output_dtype=torch.int8)
    with pytest.raises(ValueError, match="nonfinite = 'no'"):
        fi.torch.Embedding(table, nonfinite="no")
    with pytest.raises(TypeError, match="grad_scaler = 3"):
        fi.torch.Embedding(table, grad_scaler=3)
    with pytest.raises(TypeError, match="include_last_offset = 1"):
        fi.torch.EmbeddingBag(table, include_last_offset=1)
    model = fi.Recommender(dim=4)
    with pytest.raises(TypeError, match="belongs to a Recommender"):
        fi.torch.Embedding(model.item_table)


def test_what_a_forward_is_given_is_checked():
    bag, embedding = fi.torch.EmbeddingBag(new_table()), fi.torch.Embedding(new_table())
    with pytest.raises(TypeError, match="ids must be a tensor, not list"):
        embedding([1, 2])
    with pytest.raises(TypeError, match=r"ids has dtype torch\.float32"):
        embedding(torch.ones(2))
    with pytest.raises(ValueError, match=r"ids has shape \(2,\); it must be 2-D"):
        bag(tensor([1, 2]))
    with pytest.raises(ValueError, match=r"ids has shape \(1, 2\); it must be 1-D"):
        bag(tensor([[1, 2]]), tensor([0]))
    with pytest.raises(ValueError, match="offsets and lengths are both given"):
        bag(tensor([1, 2]), tensor([0]), lengths=tensor([2]))
    with pytest.raises(ValueError, match=r"per_sample_weights has shape \(3,\); ids have \(2,\)"):
        bag(tensor([1, 2]), tensor([0]), torch.ones(3))
    with pytest.raises(ValueError, match="mode='mean' with weights"):
        bag(tensor([1, 2]), tensor([0]), torch.ones(2))


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_bags_that_do_not_fit_are_refused(padding_idx):
    bag = fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=padding_idx)
    ids = tensor([1, 2, 3])
    for offsets, words in (([1], r"offsets\[0\] = 1"), ([0, 2, 1], r"offsets\[2\] = 1"), ([0, 4], r"offsets\[1\] = 4")):
        with pytest.raises(ValueError, match=words):
            bag(ids, tensor(offsets))
    for lengths in ([1, 1], [4], []):
        with pytest.raises(ValueError, match=r"the bags end at \d; there are 3 ids"):
            bag(ids, lengths=tensor(lengths, dtype=torch.int64))
    closed = fi.torch.EmbeddingBag(new_table(), "sum", padding_idx=padding_idx, include_last_offset=True)
    with pytest.raises(ValueError, match="the bags end at 2; there are 3 ids"):
        closed(ids, tensor([0, 2]))
    with pytest.raises(ValueError, match="the bags end at nothing"):
        closed(ids, tensor([], dtype=torch.int64))


def test_what_is_no_table_says_what_to_do():
    with pytest.raises(TypeError, match="for a torch embedding see"):
        fi.torch.EmbeddingBag(1000, 16)


def test_gradients_outside_a_backward():
    with pytest.raises(RuntimeError, match="gradients of rows come in a backward pass"):
        _gradients.collect(new_table(), _gradients.Piece(tensor([1]), torch.ones(1, 4), "raise"))
