"""EXPORT: a classifier with its backbone -> the bytes of one ONNX file."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.files import canonical_json
from tina_cli.onnx_trunk import to_onnx_model
from tina_cli.prediction import Classifier


class Whole(nn.Module):
    """Pictures [n, 3, s, s], RGB from 0 to 1 -> probabilities [n, K]: normalisation, trunk, head and temperature."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        how = classifier.backbone.spec.preprocess
        self.trunk = classifier.backbone.module
        self.register_buffer("mean", torch.tensor(how.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(how.std)[:, None, None])
        self.register_buffer("weight", classifier.model.weight)
        self.register_buffer("bias", classifier.model.bias)
        self.temperature = float(classifier.model.info["temperature"])

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the probabilities."""
        features = normalize(self.trunk((pictures - self.mean) / self.std), dim=-1)
        return ((features @ self.weight.T + self.bias) / self.temperature).softmax(-1)


def to_onnx(classifier: Classifier) -> bytes:
    """Return an ONNX file's bytes: input `pictures` [n, 3, s, s], output `probabilities` [n, K], class names as metadata.

    Raises `DataError` where the packages for it are missing.
    """
    whole = to_onnx_model(Whole(classifier), classifier.backbone.spec.preprocess.size, "probabilities")
    import onnx

    how = classifier.backbone.spec.to_json()["preprocess"]
    onnx.helper.set_model_props(
        whole, {"classes": canonical_json(classifier.model.classes), "preprocess": canonical_json(how), "made_by": "tina"}
    )
    return bytes(whole.SerializeToString())
