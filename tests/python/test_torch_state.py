"""fi.torch's modules: state_dict and load_state_dict."""

import copy
import io
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import fastinc as fi
from _reference import OPTIMIZERS
from _torch import equal, new_table, rows, tensor

# --- state_dict ---------------------------------------------------------------------------------------------


def trained(optimizer, **options):
    table = new_table(optimizer=optimizer, **options)
    embedding = fi.torch.Embedding(table)
    for ids in ([1, -5], [2**40, 1, 7]):
        embedding(tensor(ids)).sum().backward()
    table.remove([7])
    return embedding


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bounds", [{}, {"max_rows": 9, "eviction": "lfu"}, {"admission": fi.MinCount(1)}])
def test_state_dicts_go_through_files(name, bounds):
    optimizer = OPTIMIZERS[name].make(**next(iter(OPTIMIZERS[name].variants.values())))
    model = nn.Sequential(trained(optimizer, **bounds), nn.Linear(4, 1))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = nn.Sequential(fi.torch.Embedding(new_table(optimizer=copy.deepcopy(optimizer), **bounds)), nn.Linear(4, 1))
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    for module in (model, other):
        module(tensor([1, 3])).sum().backward()
    states = [module[0].table.__getstate__()["state"] for module in (model, other)]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_sketches_are_in_state_dicts():
    table, twin = (new_table(admission=fi.MinCount(3)) for _ in range(2))
    fi.torch.Embedding(table)(tensor([1, 1])).sum().backward()
    fi.torch.Embedding(twin).load_state_dict(fi.torch.Embedding(table).state_dict())
    twin.update([1], np.ones((1, 4), np.float32))
    assert twin.ids().tolist() == [1]


def test_state_dicts_of_modules_that_share_a_table_hold_it_once():
    table = new_table()
    model = nn.ModuleDict({"a": fi.torch.Embedding(table), "b": fi.torch.EmbeddingBag(table)})
    state = model.state_dict()
    assert state["a.weights"] is state["b.weights"]


def test_a_state_dict_that_is_filled_again_is_new():
    embedding, destination = trained(fi.SGD(lr=0.5)), OrderedDict()
    before = embedding.state_dict(destination=destination)["weights"].clone()
    embedding(tensor([1])).sum().backward()
    assert not equal(embedding.state_dict(destination=destination)["weights"], before)


def test_subclasses_have_parameters_of_their_own():
    class Scaled(fi.torch.Embedding):
        def __init__(self, table):
            super().__init__(table)
            self.scale, self.top = nn.Parameter(torch.ones(1)), nn.Linear(4, 1)

    first, second = Scaled(new_table()), Scaled(new_table())
    first.scale.data.fill_(3.0)
    assert str(second.load_state_dict(first.state_dict())) == "<All keys matched successfully>"
    assert second.scale.item() == 3.0
    assert equal(second.top.weight, first.top.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*scale"):
        second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "scale"})


def test_a_state_dict_is_a_copy():
    embedding = trained(fi.SGD(lr=0.5))
    state = embedding.state_dict()
    before = state["weights"].clone()
    embedding(tensor([1])).sum().backward()
    assert equal(state["weights"], before)


def test_the_weight_of_a_torch_embedding_can_be_loaded():
    theirs = nn.Embedding(10, 4)
    embedding = fi.torch.Embedding(new_table())
    embedding.load_state_dict(theirs.state_dict())
    assert equal(embedding(torch.arange(10)), theirs(torch.arange(10)))


def test_state_dicts_that_do_not_fit():
    embedding = trained(fi.Adagrad(lr=0.5))
    before = embedding.state_dict()
    good = dict(before)
    with pytest.raises(RuntimeError, match=r"Missing key.*weights"):
        embedding.load_state_dict({name: value for name, value in good.items() if name != "weights"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        embedding.load_state_dict({**good, "other": torch.ones(1)})
    with pytest.raises(RuntimeError, match="the table: "):
        embedding.load_state_dict({**good, "weights": torch.ones(1, 4)})
    with pytest.raises(RuntimeError, match="the table: "):
        embedding.load_state_dict({"weight": torch.ones(3, 5)})
    embedding.load_state_dict({**good, "other": torch.ones(1)}, strict=False)
    after = embedding.state_dict()
    assert all(equal(after[name], before[name]) for name in before)
    with pytest.raises(RuntimeError, match=r"0\.: "):
        nn.Sequential(trained(fi.SGD(lr=0.5))).load_state_dict({f"0.{name}": value for name, value in good.items()})


@pytest.mark.parametrize("version", [torch.tensor(1.5), torch.tensor(-1), torch.tensor([1, 2])])
def test_versions_are_whole_numbers(version):
    embedding = trained(fi.SGD(lr=0.5))
    state = embedding.state_dict() | {"version": version}
    with pytest.raises(RuntimeError, match=r"version = .* must be a whole number, at least 0"):
        embedding.load_state_dict(state)


class Normed(fi.torch.Embedding):
    """A subclass whose parameter has the name of a torch embedding's."""

    def __init__(self, table, name="weight"):
        super().__init__(table)
        self.register_parameter(name, nn.Parameter(torch.full((3, 4), 2.0)))

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        self.extra = state


def test_names_of_subclasses():
    first, second = Normed(new_table()), Normed(new_table())
    first(tensor([1, 2])).sum().backward()
    first.weight.data[:] = 5.0
    assert str(second.load_state_dict(first.state_dict())) == "<All keys matched successfully>"
    assert equal(rows(second.table, [0, 1, 2]), rows(first.table, [0, 1, 2]))
    assert second.weight[0, 0] == 5.0
    assert second.extra == {"seen": 3}
    with pytest.raises(AttributeError, match=r"Normed\.ids: a state_dict has the table's under this name"):
        Normed(new_table(), "ids").state_dict()
