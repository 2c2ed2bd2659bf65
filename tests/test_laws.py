"""The laws of the core: codec, forward and reverse process, denoiser, regression, statistics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import fold_batch_norms
from tina_cli.calibration import fit_calibration
from tina_cli.codec import decode_rows, encode_rows, fit_spread, head_parameters
from tina_cli.denoiser import Denoiser, Guidance
from tina_cli.diffusion import alpha_bar, q_sample, time_grid
from tina_cli.evaluation import expected_calibration_error, mean_interval, rejection_auroc, wilson
from tina_cli.loop import LoopOptions, train_loop
from tina_cli.ridge import fit_kernel_ridge, gram, left_out
from tina_cli.rng import torch_rng
from tina_cli.sampler import SAMPLERS, sample_ddim, sample_dpmpp_2m
from tina_cli.sampling import Draw, Sampling, sample_rows

CPU = torch.device("cpu")


def noise(*shape: int, seed: object = 0) -> Tensor:
    return torch.randn(*shape, generator=torch_rng(0, "test", seed))


def test_tokens_have_unit_variance_and_decode_to_their_rows() -> None:
    rows = normalize(noise(7, 400), dim=-1)
    assert encode_rows(rows).var().item() == pytest.approx(1, rel=0.05)
    assert torch.allclose(decode_rows(encode_rows(rows)), rows)


def test_head_scores_centred_features() -> None:
    rows, mean, feature = noise(3, 8), noise(8, seed=1), noise(8, seed=2)
    weight, bias = head_parameters(rows, mean)
    assert torch.allclose(weight @ feature + bias, rows @ (feature - mean), atol=1e-5)


def test_standard_rows_spread_alike() -> None:
    features = noise(4000, 24) * torch.linspace(0.1, 3, 24)
    rows = noise(9, 24, seed=1)
    spread = fit_spread(features, torch.ones(4000), rows, rank=20)
    standard = spread.standardise(rows)
    assert standard.norm(dim=-1).mean().item() == pytest.approx(1, rel=1e-4)
    before, after = (normalize(rows, dim=-1) @ features.T).std(-1), (standard @ features.T).std(-1)
    assert after.std() / after.mean() < 0.6 * before.std() / before.mean()
    assert torch.allclose(spread.standardise(5 * rows), standard, atol=1e-6)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_signal_only_fades(a: float, b: float) -> None:
    first, second = alpha_bar(torch.tensor([min(a, b), max(a, b)]))
    assert 1 >= first >= second > 0


def test_forward_process_keeps_the_variance() -> None:
    x_0, eps = noise(50, 20, 40), noise(50, 20, 40, seed=1)
    for t in (0.0, 0.3, 0.8, 1.0):
        assert q_sample(x_0, torch.full((50,), t), eps).var().item() == pytest.approx(1, rel=0.02)
    assert torch.allclose(q_sample(x_0, torch.zeros(50), eps), x_0, atol=5e-3)


@given(st.integers(1, 1000))
def test_time_grid_falls_to_zero(steps: int) -> None:
    grid = time_grid(steps, 1000)
    assert len(grid) == steps + 1 and grid[0] == 1 and grid[-1] == 0
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_sure_denoiser_is_believed(sampler: str, steps: int) -> None:
    answer = noise(1, 4, 6)
    out = SAMPLERS[sampler](
        lambda x, t: answer, noise(1, 4, 6, seed=1), time_grid(steps, 1000), lambda i: noise(1, 4, 6, seed=i)
    )
    assert torch.allclose(out, answer)


def gaussian_denoiser(mean: float, deviation: float):
    """Return the exact denoiser of Gaussian data."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        signal = alpha_bar(t)
        gain = signal.sqrt() * deviation**2 / (signal * deviation**2 + 1 - signal)
        return mean + gain * (x - signal.sqrt() * mean)

    return denoise


@pytest.mark.parametrize(("sampler", "tolerance"), [("ddim", 0.03), ("dpm-solver++", 0.03), ("ddpm", 0.06)])
def test_samplers_draw_from_a_gaussian(sampler: str, tolerance: float) -> None:
    start = noise(1, 100, 100)
    out = SAMPLERS[sampler](
        gaussian_denoiser(1.5, 0.7), start, time_grid(200, 1000), lambda i: noise(1, 100, 100, seed=("step", i))
    )
    assert out.mean().item() == pytest.approx(1.5, abs=tolerance)
    assert out.std().item() == pytest.approx(0.7, abs=tolerance)


def test_the_second_order_needs_fewer_steps() -> None:
    denoise, start = gaussian_denoiser(0.5, 0.6), noise(1, 10, 10)
    exact = sample_ddim(denoise, start, time_grid(1000, 1000), noise)
    errors = {f: (f(denoise, start, time_grid(8, 1000), noise) - exact).abs().mean() for f in (sample_ddim, sample_dpmpp_2m)}
    assert errors[sample_dpmpp_2m] < 0.8 * errors[sample_ddim]


def network(row_dim: int = 24, condition_dim: int = 12, width: int = 32) -> Denoiser:
    torch.manual_seed(0)
    out = Denoiser(row_dim, condition_dim, width=width, layers=2, heads=2).eval()
    torch.nn.init.normal_(out.gates.weight, std=0.5)
    for block in out.blocks:
        torch.nn.init.normal_(block.modulation, std=0.5)
    return out


def guidance(classes: int, row_dim: int = 24, condition_dim: int = 12, seed: int = 0) -> Guidance:
    condition, evidence = noise(1, classes, condition_dim, seed=(seed, 0)), noise(1, classes, 2, seed=(seed, 1))
    rows = noise(1, classes, row_dim, seed=(seed, 2))
    return Guidance(normalize(condition, dim=-1), evidence.abs(), encode_rows(rows))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)))
def test_classes_are_a_set(order: list[int]) -> None:
    net, told, x, t = network(), guidance(6), noise(1, 6, 24), torch.tensor([0.4])
    mask = torch.ones(1, 6, dtype=torch.bool)
    moved = Guidance(told.condition[:, order], told.evidence[:, order], told.anchor[:, order])
    assert torch.allclose(net(x[:, order], t, moved, mask), net(x, t, told, mask)[:, order], atol=1e-5)


def test_padding_has_no_meaning() -> None:
    net, told, x, t = network(), guidance(6), noise(1, 6, 24), torch.tensor([0.4])
    mask = torch.tensor([[True] * 4 + [False] * 2])
    short = Guidance(told.condition[:, :4], told.evidence[:, :4], told.anchor[:, :4])
    alone = net(x[:, :4], t, short, torch.ones(1, 4, dtype=torch.bool))
    assert torch.allclose(net(x, t, told, mask)[:, :4], alone, atol=1e-5)
    assert not torch.allclose(net(x, t, told, torch.ones(1, 6, dtype=torch.bool))[:, :4], alone, atol=1e-3)


def test_the_company_matters_and_an_untrained_network_gives_the_anchor() -> None:
    told, mask = guidance(5), torch.ones(1, 5, dtype=torch.bool)
    fresh = Denoiser(24, 12, width=32, layers=1, heads=2)
    assert torch.equal(fresh(noise(1, 5, 24), torch.tensor([0.4]), told, mask), told.anchor)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_order_gives_the_same_rows_bit_for_bit(sampler: str) -> None:
    net, told, names = network(), guidance(5), ["d", "a", "e", "b", "c"]
    order, how = [3, 1, 4, 0, 2], Sampling(sampler, steps=3)
    moved = Guidance(told.condition[:, order], told.evidence[:, order], told.anchor[:, order])
    [rows] = sample_rows(net, [Draw(told, names, 7)], how, CPU)
    [again] = sample_rows(net, [Draw(moved, [names[i] for i in order], 7)], how, CPU)
    assert torch.equal(rows[order], again)
    assert not torch.equal(rows, sample_rows(net, [Draw(told, names, 8)], how, CPU)[0])


@pytest.mark.parametrize("classes", [2, 3, 7, 16, 21, 100, 300])
def test_company_in_a_batch_changes_no_bit(classes: int) -> None:
    net, how, names = network(1280, 512, 192), Sampling(steps=3), [f"c{i}" for i in range(classes)]
    draws = [Draw(guidance(classes, 1280, 512, seed), names, seed) for seed in range(9)]
    alone = [sample_rows(net, [draw], how, CPU)[0] for draw in draws]
    assert all(map(torch.equal, sample_rows(net, draws, how, CPU), alone))


def test_strength_goes_from_the_anchors_to_the_denoiser() -> None:
    net, told, names = network(), guidance(3), ["a", "b", "c"]
    found = [sample_rows(net, [Draw(told, names, 0)], Sampling(steps=1, strength=s), CPU)[0] for s in (0, 0.5, 1)]
    assert torch.allclose(encode_rows(found[0]), told.anchor[0])
    assert torch.allclose(found[1], (found[0] + found[2]) / 2, atol=1e-5) and not torch.allclose(found[0], found[2])


def test_leaving_out_is_fitting_without() -> None:
    x, y, groups = noise(12, 6), noise(12, 3, seed=1), torch.arange(12) // 3
    ridge = fit_kernel_ridge(x, y, 2.0, 0.1 + torch.arange(12) % 2)
    left = left_out(ridge, y, groups)
    for group in range(4):
        kept = groups != group
        kernel = gram(ridge.keys[kept], 2.0, ridge.noise[kept])
        dual = torch.linalg.solve(kernel, y[kept].double())
        across = torch.exp(2.0 * (ridge.keys[~kept].double() @ ridge.keys[kept].double().T - 1))
        assert torch.allclose(left[~kept].double(), across @ dual, atol=1e-5)


def test_the_fitted_values_come_back() -> None:
    x, y = noise(10, 6), noise(10, 3, seed=1)
    ridge = fit_kernel_ridge(x, y, 2.0, 0.5)
    assert torch.allclose((gram(ridge.keys, 2.0, ridge.noise) @ ridge.dual.double()).float(), y, atol=1e-5)


def test_what_a_key_has_to_itself_counts_for_it_alone() -> None:
    x, y = normalize(noise(20, 40), dim=-1), noise(20, 3, seed=1)
    plain, whole = (fit_kernel_ridge(x, y, gamma=2.0, noise=0.5, own=own) for own in (0.0, 1.0))
    assert torch.allclose(whole.predict(x), y, atol=1e-3) and not torch.allclose(plain.predict(x), y, atol=0.1)
    others = normalize(noise(20, 40, seed=2), dim=-1)
    assert torch.allclose(whole.predict(others), plain.predict(others), atol=1e-4)


def test_the_inputs_come_back() -> None:
    x = normalize(noise(10, 6) + 2, dim=-1)
    assert torch.allclose(fit_kernel_ridge(x, noise(10, 3, seed=1), 2.0, 0.5).inputs(), x, atol=1e-5)


def test_calibration_finds_the_temperature_and_the_accuracy() -> None:
    scores, labels, signs = [], [], []
    for task in range(60):
        hard = task % 2
        y = torch.randint(4, (200,), generator=torch_rng(0, "labels", task))
        logits = noise(200, 4, seed=task) + (1.0 if hard else 3.0) * torch.eye(4)[y]
        scores.append(logits * 0.1)
        labels.append(y)
        signs.append(torch.tensor([1.0, math.log(4), hard]))
    found = fit_calibration(torch.stack(signs), scores, labels)
    right = [float((s.argmax(-1) == y).float().mean()) for s, y in zip(scores, labels, strict=True)]
    for hard in (0, 1):
        actual = sum(right[hard::2]) / 30
        told = torch.tensor([1.0, math.log(4), hard])
        assert found.accuracy_of(told) == pytest.approx(actual, abs=0.02)
        sure = torch.cat([(s / found.temperature_of(told)).softmax(-1) for s in scores[hard::2]])
        assert expected_calibration_error(sure, torch.cat(labels[hard::2])) < 0.03


def test_rejection_counts_pairs() -> None:
    assert rejection_auroc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1.0])) == 3.5 / 4
    assert math.isnan(rejection_auroc(torch.tensor([3.0]), torch.zeros(0)))


def test_intervals() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = mean_interval([0.5, 0.7, 0.9])
    assert (low, high) == (pytest.approx(0.2032, abs=1e-3), pytest.approx(1.1968, abs=1e-3))
    assert wilson(5, 5)[1] == pytest.approx(1)


def test_folding_batch_norms_changes_nothing() -> None:
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    whole = torch.nn.Sequential(block, torch.nn.Conv2d(8, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean, module.running_var = noise(module.num_features), noise(module.num_features, seed=1).exp()
    x = noise(2, 3, 9, 9)
    with torch.no_grad():
        before = whole(x)
        assert torch.allclose(fold_batch_norms(whole)(x), before, atol=1e-4)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in whole.modules()) == 1  # the one behind no convolution


def test_a_loop_interrupted_between_checkpoints_ends_the_same(tmp_path: Path) -> None:
    """Also where parameters do not lie in memory in their usual order."""
    options = LoopOptions(steps=7, warmup=2, checkpoint_every=2)

    def run(checkpoint: Path, stop: int | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)

        def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
            if step == stop:
                raise KeyboardInterrupt
            return module(noise(2, 3, 8, 8, seed=step)).square().mean(), {}

        return train_loop(module, loss_at, options, checkpoint, lambda **_: None)

    whole = run(tmp_path / "whole", None)
    for stop in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", stop)
    again = run(tmp_path / "broken", None)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_thousand_steps_end_at_the_prediction(name: str) -> None:
    wanted = torch.full((1, 3, 4), 0.7)
    rng = torch.Generator().manual_seed(0)

    def noise_at(step: int) -> torch.Tensor:
        return torch.randn(wanted.shape, generator=rng)

    # What the denoiser says hangs on where the sampler is, so that no step may be lost on the way.
    out = SAMPLERS[name](lambda x, t: wanted + 0.1 * torch.tanh(x) * t, noise_at(-1), time_grid(1000, 1000), noise_at)
    assert torch.isfinite(out).all() and (out - wanted).abs().max() < 1e-3
