"""Prediction: pictures per second of `tina predict` over a folder, beside the trunk alone, open_clip's ViT-B-32 and ONNX."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import PHOTO, TINA, draw_pictures, record, run

from tina_cli.device import choose_device, prepare_torchvision
from tina_cli.export import to_onnx
from tina_cli.generator import open_generator
from tina_cli.prediction import load_classifier
from tina_cli.weights import embedded_weights

PICTURES, BATCH, BATCHES = 2000, 16, 8
NAMES = ("cat", "dog", "truck")


def rate(step: Callable[[], object], batches: int, size: int) -> float:
    """Return pictures per second of a function called with batches."""
    step()
    start = time.perf_counter()
    for _ in range(batches):
        step()
    return batches * size / (time.perf_counter() - start)


def main() -> None:
    """Measure, and record."""
    prepare_torchvision()
    import onnxruntime
    import open_clip

    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name) / "pictures", Path(name) / "model.safetensors"
        draw_pictures(folder, PICTURES)
        run([*TINA, "generate", "classify cats, dogs and trucks", "-o", model, "-q"])
        few = Path(name) / "few"
        few.mkdir()
        for path in sorted(folder.iterdir())[:BATCH]:
            (few / path.name).hardlink_to(path)
        start_up = run([*TINA, "predict", model, few])  # importing and loading
        whole = run([*TINA, "predict", model, folder])
        ours = (PICTURES - BATCH) / (whole - start_up)

        trunk = open_generator(embedded_weights(), choose_device("cpu")).backbone
        pictures = torch.randn(BATCH, 3, 224, 224)
        forward = rate(lambda: trunk.features(pictures), BATCHES, BATCH)

        session = onnxruntime.InferenceSession(to_onnx(load_classifier(model)))
        fed = {session.get_inputs()[0].name: pictures.numpy()}
        onnx = rate(lambda: session.run(None, fed), BATCHES, BATCH)

        vit = open_clip.create_model("ViT-B-32").eval()
        with torch.inference_mode():
            other = rate(lambda: vit.encode_image(pictures), BATCHES, BATCH)
    rows = [
        ["`tina predict`, decoding included", f"{ours:.0f}", f"{ours / forward:.2f} x", f"{ours / other:.1f} x"],
        ["the trunk's forward pass alone", f"{forward:.0f}", "1.00 x", f"{forward / other:.1f} x"],
        ["the exported file in onnxruntime, no decoding", f"{onnx:.0f}", f"{onnx / forward:.2f} x", f"{onnx / other:.1f} x"],
        ["open_clip ViT-B-32, image tower, no decoding", f"{other:.0f}", f"{other / forward:.2f} x", "1.00 x"],
    ]
    note = f"{PICTURES} JPEGs of {PHOTO[0]} x {PHOTO[1]} pixels; `tina predict` without its start of {start_up:.1f} s."
    record("predict_folder", "Prediction", note, ["", "pictures/s", "beside the trunk", "beside ViT-B-32"], rows)


if __name__ == "__main__":
    main()
