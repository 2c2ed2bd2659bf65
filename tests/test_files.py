"""Bytes on disk, pictures, recipes, the training loop."""

from __future__ import annotations

import os
import stat
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from tina_cli.config import Preprocess, load_recipe
from tina_cli.errors import DataError, DeviceError, ImageError, OutputError, UsageError
from tina_cli.files import canonical_json, check_writable, write_atomic
from tina_cli.images import expand, load_image, open_image, preprocess, read_classes
from tina_cli.loop import LoopOptions, train_loop


def test_writes_honour_umask_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "real", tmp_path / "link"
    before = os.umask(0o027)
    try:
        write_atomic(target, b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    link.symlink_to(target)
    write_atomic(link, b"two")
    assert link.is_symlink() and target.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe, force=False)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"bytes")
        assert os.read(reader, 9) == b"bytes" and stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)


def test_unwritable_targets(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    for path, reason in [(tmp_path, "is a folder"), (tmp_path / "there", "exists"), (tmp_path / "no" / "x", "no folder"),
                         (tmp_path / ("x" * 300), "too long"), (tmp_path / "a\0b", "null")]:  # fmt: skip
        with pytest.raises(OutputError, match=reason):
            check_writable(path, force=False)
    check_writable(tmp_path / "there", force=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_atomic(tmp_path / "no" / "x", b"")


def test_canonical_json() -> None:
    assert canonical_json({"b": float("nan"), "a": (1, "é")}) == '{"a":[1,"é"],"b":null}'


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_every_kind_of_picture_becomes_upright_rgb(tmp_path: Path) -> None:
    top = Image.new("RGB", (40, 20), "red")
    top.paste("blue", (0, 10, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = open_image(save(top, tmp_path / "turned.png", exif=exif))
    assert turned.getpixel((5, 2)) == (0, 0, 255)
    clear = open_image(save(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path / "clear.png"))
    assert clear.getpixel((2, 2)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 200, 30] + [0] * 765)
    assert open_image(save(palette, tmp_path / "p.gif")).getpixel((1, 1)) == (10, 200, 30)
    deep = open_image(save(Image.new("I;16", (8, 8), 40000), tmp_path / "deep.png"))
    assert deep.mode == "RGB" and deep.getpixel((1, 1)) == (155, 155, 155)
    for mode, name in [("L", "grey.png"), ("CMYK", "ink.jpg"), ("1", "bit.png"), ("LA", "la.png")]:
        assert open_image(save(Image.new(mode, (8, 6)), tmp_path / name)).mode == "RGB"


def test_damaged_exif_costs_no_picture(tmp_path: Path) -> None:
    path, image = tmp_path / "a.jpg", Image.new("RGB", (8, 8), "red")
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04up!\0\0\0\0\0"  # an orientation that is a text
    image.save(path, exif=tag)
    assert open_image(path).size == (8, 8)


def test_unusable_pictures(tmp_path: Path) -> None:
    whole = save(Image.effect_noise((90, 90), 50), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    save(Image.new("1", (20_000, 10_000)), tmp_path / "enormous.png")
    for name, reason in [
        ("cut.png", "cannot read"),
        ("text.png", "no picture"),
        ("empty.png", "no picture"),
        ("enormous.png", "20000 x 10000 pixels"),
        ("missing.png", "No such file"),
    ]:
        with pytest.raises(ImageError, match=reason):
            load_image(tmp_path / name, Preprocess())


def test_preprocessing_keeps_the_middle() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    out = preprocess(image, Preprocess(size=50))
    assert out.shape == (3, 50, 50) and out.mean() > 0.95
    assert preprocess(Image.new("RGB", (1, 3000)), Preprocess(size=32)).shape == (3, 32, 32)


@given(sides=st.tuples(st.integers(1, 400), st.integers(1, 400)), size=st.integers(8, 64))
@settings(max_examples=25, deadline=None)
def test_pictures_are_resized_as_pillow_does(sides: tuple[int, int], size: int) -> None:
    rng = np.random.default_rng(sides)
    image = Image.fromarray(rng.integers(0, 256, (*sides, 3), dtype=np.uint8))
    scale = size / min(sides)
    wide, high = (max(size, round(side * scale)) for side in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    wanted = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size)))
    found = preprocess(image, Preprocess(size=size, mean=(0.0,) * 3, std=(1 / 255,) * 3))
    assert np.abs(found.permute(1, 2, 0).numpy() - wanted).mean() < 1  # of 255; noise overshoots, and is the worst case


def test_tiny_pictures_are_sharpened_and_no_others() -> None:
    def differs(side: int) -> bool:
        rng = np.random.default_rng(side)
        image = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        return not torch.equal(preprocess(image, Preprocess(size=64)), preprocess(image, Preprocess(size=64, sharpen_below=48)))

    assert differs(32) and differs(47) and not differs(48) and not differs(200)


def test_folders_of_classes(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/deep/2.png", "dog/3.PNG", ".hidden/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    assert {name: len(paths) for name, paths in read_classes(tmp_path).items()} == {"cat": 2, "dog": 1}
    assert len(expand([tmp_path])) == 4
    with pytest.raises(DataError, match="no subfolders"):
        read_classes(tmp_path / "empty")
    with pytest.raises(ImageError, match="no picture in"):
        expand([tmp_path / "empty"])


def test_open_image_takes_streams() -> None:
    stream = BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    assert open_image(BytesIO(stream.getvalue())).size == (4, 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[denoiser]\nwdith = 3", "unknown key 'wdith'"),
        ("[denoiser]\nwidth = 'wide'", "must be of type int"),
        ("seed = 1.5", "must be of type int"),
        ("denoiser = 3", "must be a table"),
        ("seed = ", "not TOML"),
    ],
)
def test_recipes_are_checked(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        load_recipe(str(path))


def test_shipped_recipes() -> None:
    for name in ("default", "tina-mini", "tina-mini-heldout", "smoke"):
        assert load_recipe(name).name == name
    with pytest.raises(UsageError, match="no recipe"):
        load_recipe("nothing")


def test_absent_device() -> None:
    from tina_cli.device import choose_device

    assert choose_device("cpu").type == "cpu"
    for name in ("cuda:77", "abacus", "cpu:1"):
        with pytest.raises(DeviceError):
            choose_device(name)


def train(path: Path, steps: int, stop_at: int | None = None) -> dict[str, Tensor]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    net.register_parameter("unused", nn.Parameter(torch.ones(2)))  # never has a gradient

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        return (net(x)[:, 0] - x.sum(1)).square().mean(), {}

    return train_loop(net, loss_at, LoopOptions(steps=steps, checkpoint_every=7, warmup=5), path, lambda **_: None)


def test_an_interrupted_training_ends_the_same(tmp_path: Path) -> None:
    whole = train(tmp_path / "a", 40)
    for stop in (3, 20):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", 40, stop)
    again = train(tmp_path / "b", 40)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "a", 8)
    other = nn.Linear(2, 2)
    with pytest.raises(DataError, match="another network"):
        train_loop(other, lambda step: (other.weight.sum(), {}), LoopOptions(), tmp_path / "a", lambda **_: None)
