"""What tests of fi.torch share."""

import numpy as np
import pytest
import torch
from torch import nn

import fastinc as fi


def device_fixture():
    """Make the fixture of where tables and tensors are; torch knows no emulated GPU."""

    @pytest.fixture(params=["cpu", "cuda"])
    def device(request):
        if request.param == "cuda" and not (torch.cuda.is_available() and fi.info()["cuda"]["available"]):
            pytest.skip("no GPU")
        return request.param

    return device


def new_table(device="cpu", dim=4, optimizer=None, **options):
    options.setdefault("init", fi.init.Normal(std=1.0, seed=3))
    return fi.EmbeddingTable(dim, optimizer or fi.SGD(lr=0.5), device=device, **options)


def tensor(values, device="cpu", dtype=None):
    return torch.tensor(values, device=device, dtype=dtype)


def rows(table, ids):
    return torch.from_numpy(np.asarray(table.lookup(np.asarray(ids, np.int64))))


def reference_bag(table, ids, offsets, mode, weights=None, num=64, **options):
    """torch's own on the same rows; ids below num."""
    weight = rows(table, range(num)).requires_grad_()
    out = nn.functional.embedding_bag(
        tensor(ids), weight, tensor(offsets), mode=mode, per_sample_weights=weights, **options
    )
    return out, weight


def equal(a, b):
    return torch.equal(a.cpu(), b.cpu())
