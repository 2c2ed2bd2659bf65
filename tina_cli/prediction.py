"""PREDICTION: a model and pictures -> labels and probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from tina_cli.backbone import Backbone, BackboneSpec, with_weights
from tina_cli.device import choose_device
from tina_cli.errors import ImageError, ModelFileError
from tina_cli.generator import open_generator
from tina_cli.images import load_bytes, load_image
from tina_cli.modelfile import Model, read_model
from tina_cli.onnx_trunk import fastest
from tina_cli.weights import find_generator

PORTION = 256  # pictures between which a broken one is looked for


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture: the likeliest label, all probabilities, and whether it may be none of them."""

    image: str
    label: str
    probabilities: dict[str, float]
    unsure: bool


@dataclass(frozen=True)
class Classifier:
    """A model with its backbone: call it with a picture's path."""

    model: Model
    backbone: Backbone

    def scores(self, features: Tensor) -> Tensor:
        """Return the scores [n, K] of unit features [n, D]."""
        return features @ self.model.weight.T + self.model.bias

    def predictions(self, names: Sequence[str], features: Tensor) -> list[Prediction]:
        """Return the predictions for unit features [n, D] of pictures with these names."""
        scores = self.scores(features)
        probabilities = (scores / self.model.info["temperature"]).softmax(-1)
        unsure = (scores.amax(-1) < self.model.info["threshold"]).tolist()
        labels = self.model.classes
        return [
            Prediction(name, labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)), doubt)
            for name, row, doubt in zip(names, probabilities, unsure, strict=True)
        ]

    def __call__(self, image: str | Path | bytes) -> Prediction:
        """Classify one picture, a path or a file's bytes; raises `ImageError`."""
        how = self.backbone.spec.preprocess
        picture = load_bytes(image, how) if isinstance(image, bytes) else load_image(Path(image), how)
        name = "-" if isinstance(image, bytes) else str(image)
        return self.predictions([name], self.backbone.features(picture[None]))[0]

    def each(self, paths: Sequence[Path], batch: int = 16) -> Iterator[Prediction | ImageError]:
        """Yield a prediction, or the error of a broken picture, for every file, in order.

        Pictures are decoded while the trunk works on those before them.
        """
        for start in range(0, len(paths), PORTION):
            yield from self._some(paths[start : start + PORTION], batch)

    def _some(self, paths: Sequence[Path], batch: int) -> Iterator[Prediction | ImageError]:
        try:
            found = self.predictions([str(path) for path in paths], self.backbone.read(paths, batch))
        except ImageError as error:  # find out which: one broken picture must not cost its neighbours
            if len(paths) == 1:
                yield error
                return
            for half in (paths[: len(paths) // 2], paths[len(paths) // 2 :]):
                yield from self._some(half, batch)
        else:
            yield from found

    def fast(self, pictures: int) -> Classifier:
        """Return the classifier whose trunk is run in the fastest way for so many pictures; scores agree to five digits."""
        return replace(self, backbone=fastest(self.backbone, pictures))


def load_classifier(model: str | Path, weights: str | None = None, device: str = "auto") -> Classifier:
    """Load a model file with its backbone, from the file itself or from a generator; raises `ModelFileError`."""
    path = Path(model)
    content, where = read_model(path), choose_device(device)
    spec = BackboneSpec.from_json(content.info["backbone"])
    if content.backbone:
        return Classifier(content, with_weights(spec, content.backbone, where, str(path)))
    folder = find_generator(weights)
    generator = open_generator(folder, where)
    if generator.spec.sha256 != spec.sha256:
        raise ModelFileError(
            f"{path} was made for another backbone than {folder} has",
            hint=f"name its generator ({content.info['generator'].get('name')}) with --weights, or generate with --bundle",
        )
    return Classifier(content, generator.backbone)
