"""Losses for label maps: figures of the published implementation."""

import torch
from parity import agree, cases, inputs

from taming.modules.losses.segmentation import BCELoss, BCELossWithQuant

CASES = cases("losses")


def test_bce():
    case = CASES["bce"]
    tensors = inputs(case)
    prediction = tensors["prediction"].requires_grad_()
    loss, log = BCELoss()(prediction, tensors["target"])
    loss.backward()
    agree(case["outputs"], {"loss": loss, "log": log, "grad_norm_prediction": prediction.grad.norm()})


def test_bce_with_quant():
    case = CASES["bce-with-quant"]
    tensors = inputs(case)
    qloss = tensors["qloss"].reshape(1)
    loss, log = BCELossWithQuant(**case["kwargs"])(qloss, tensors["target"], tensors["prediction"], "val")
    agree(case["outputs"], {"loss": loss, "log": log})
    assert set(log) == set(case["outputs"]["log"])


def test_the_quantizer_loss_keeps_its_shape_and_its_gradient_but_is_logged_as_a_mean():
    qloss = torch.tensor([1.0, 3.0], requires_grad=True)
    prediction, target = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.ones(1, 2, 4, 4)
    loss, log = BCELossWithQuant(codebook_weight=2.0)(qloss, target, prediction, "train")
    loss.sum().backward()
    assert loss.shape == (2,) and qloss.grad.tolist() == [2.0, 2.0]
    assert log["train/quant_loss"] == 2 and torch.isclose(log["train/total_loss"], loss.mean())
    assert not any(value.requires_grad for value in log.values())


def test_no_weights():
    assert not BCELoss().state_dict() and not BCELossWithQuant().state_dict()
