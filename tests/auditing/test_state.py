"""A model that was measured is exactly the model that was handed in."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import symconv as sc
from symconv.auditing.call import Call, ModelError
from symconv.auditing.counts import count
from symconv.auditing.state import left_as_found


class Unruly(nn.Module):
    """Does everything in its forward that a forward should not do."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1))
        self.seen, self.names, self.kept = [], {"a"}, {}
        self.fails = fails

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.names.add("b")
        self.kept["x"] = x
        self.extra = x
        self.layer.weight.data.clamp_(-0.01, 0.01)
        self.layer.bias.data = torch.ones(4)
        self.frozen.requires_grad_(True)
        nn.functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)
        self.layer.register_forward_hook(lambda *_: None)
        self.register_buffer("late", torch.ones(1))
        torch.rand(3), np.random.rand(), random.random()
        if self.fails:
            raise ValueError("by intent")
        return self.layer(x)


def picture(model):
    """All there is to see of a model and of the random generators."""
    grads = {name: (None if p.grad is None else p.grad.clone()) for name, p in named(model)}
    return {
        "values": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "addresses": {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()},
        "objects": {name: id(p) for name, p in named(model)},
        "gradients": grads,
        "trained": {name: p.requires_grad for name, p in named(model)},
        "modes": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: len(m._forward_hooks) for name, m in model.named_modules()},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "contents": [list(model.seen), set(model.names), dict(model.kept)],
        "random": [torch.get_rng_state(), np.random.get_state()[1], str(random.getstate())],
    }


def named(model):
    return list(model.named_parameters())


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return a.shape == b.shape and bool((a == b).all())
    return a == b


def unruly(fails=False):
    model = Unruly(fails).train()
    model.norm.eval()  # a mode that no call of train() or eval() would give back
    nn.Linear.forward(model.layer, torch.ones(2, 4)).sum().backward()
    return model


def changed(before, model):
    after = picture(model)
    return [name for name in before if not same(before[name], after[name])]


X = torch.randn(3, 4)


def test_the_unruly_model_would_be_seen():
    model = unruly()
    before = picture(model)
    model.eval()(X).sum().backward()
    assert changed(before, model) == list(before)[:2] + list(before)[3:]  # all but the objects


@pytest.mark.parametrize("fails", [False, True])
def test_left_as_found(fails):
    model = unruly(fails)
    before = picture(model)
    try:
        with left_as_found(model):
            assert not any(m.training for m in model.modules())
            model(X).sum().backward()
    except ValueError:
        assert fails
    assert changed(before, model) == []


MEASURES = {
    "count": lambda model: count(Call.of(model, X)),
    "audit": lambda model: sc.audit(model, X),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measuring_leaves_no_trace(name):
    model = unruly()
    before = picture(model)
    MEASURES[name](model)
    assert changed(before, model) == []


@pytest.mark.parametrize("name", MEASURES)
def test_a_failure_leaves_no_trace(name):
    model = unruly(fails=True)
    before = picture(model)
    with pytest.raises(ModelError, match="ValueError: by intent"):
        MEASURES[name](model)
    assert changed(before, model) == []


def test_modes_are_set_without_calling_eval():
    class Merges(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("adapters were merged")

    layer = Merges(4, 4)
    count(Call.of(layer, X))
    assert layer.training


def test_a_graph_of_gradients_survives():
    layer = nn.Linear(4, 4)
    loss = layer(X).square().sum()
    count(Call.of(layer, X))
    with left_as_found(layer):
        layer(X).sum().backward()
    loss.backward()
    wanted = copy.deepcopy(layer)
    wanted.zero_grad()
    wanted(X).square().sum().backward()
    assert torch.equal(layer.weight.grad, wanted.weight.grad)


def test_parameters_are_copied_only_when_written_to():
    from symconv.auditing.state import _CopyOnWrite, _Kept

    weight, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    kept = [_Kept(weight, copy=False), _Kept(other, copy=False)]
    with _CopyOnWrite(kept), torch.no_grad():
        weight[1:].add_(other[0])
    assert kept[0].values is not None
    assert kept[1].values is None


def test_settings_of_torch_are_put_back():
    before = torch.backends.mha.get_fastpath_enabled()
    with left_as_found(nn.Linear(2, 2)):
        assert not torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ModelError):
        count(Call.of(nn.Linear(3, 3), X))
    assert torch.backends.mha.get_fastpath_enabled() == before
    count(Call.of(nn.Linear(4, 4), X))
    assert torch.is_grad_enabled()
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_tensors_without_numbers_can_be_kept_too():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with left_as_found(model):
        model(torch.empty(2, 4, device="meta"))
    sparse = nn.Identity()
    sparse.register_buffer("matrix", torch.eye(3).to_sparse())
    with left_as_found(sparse):
        sparse.matrix.mul_(2)
    assert torch.equal(sparse.matrix.to_dense(), torch.eye(3))
