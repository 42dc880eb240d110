"""The tables and the kept filter of group convolutions, in the ways that networks are loaded."""

import pytest
import torch

import symconv as sc

C4 = sc.groups.parse("C4")


@pytest.mark.parametrize("assign_by", ["state_dict", "setattr"])
def test_weights_assigned_onto_a_meta_layer_find_their_tables(assign_by):
    arguments = C4.regular(2), C4.regular(3) + C4.vector(1), 3
    reference, x = sc.nn.GroupConv2d(*arguments).eval(), torch.randn(2, 8, 7, 7)
    with torch.device("meta"):
        layer = sc.nn.GroupConv2d(*arguments).eval()
    if assign_by == "state_dict":
        layer.load_state_dict(reference.state_dict(), assign=True)
    else:
        layer.weight, layer.bias = reference.weight, reference.bias
    assert torch.equal(layer(x), reference(x))


def test_a_layer_built_for_inference_leaves_others_trainable():
    fields = C4.regular(1), C4.quotient(C4.subgroup([2]), 5)
    with torch.inference_mode():
        sc.nn.GroupConv2d(*fields, 3)
    layer = sc.nn.GroupConv2d(*fields, 3)
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    assert layer.weight.grad.any()


def test_the_filter_given_out_is_not_the_one_kept():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3).eval()
    x = torch.randn(1, 1, 5, 5)
    with torch.no_grad():
        before = layer(x)
        layer.filter().zero_()
        assert torch.equal(layer(x), before)


def test_align_without_a_stride_needs_no_size():
    layer = sc.nn.GroupConv2d(C4.trivial(1), C4.regular(1), 3, padding=1, align=True)
    x = torch.randn(1, 1, 5, 5)
    assert torch.equal(layer.to_conv()(x), layer(x))
