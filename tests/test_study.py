"""The paper's study: its laws on small networks, and all of it in miniature."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, linear

from tina_cli.study import baselines
from tina_cli.study.drawn import drawn_classes
from tina_cli.study.lab import Lab, data_digest
from tina_cli.study.learner import learn, tell
from tina_cli.study.measures import compare, interval
from tina_cli.study.network import Hypernetwork, NetDenoiser, State, initialise
from tina_cli.study.pictures import Bank, split_bank
from tina_cli.study.pmodels import Networks, accuracies, finetune, start_from
from tina_cli.study.recipe import Episodes, Learning, StudyRecipe, Tuning, load_study
from tina_cli.study.space import DOUBT, class_effects, fit_space
from tina_cli.study.targets import TARGETS, forward, forward_many, initial
from tina_cli.zoo.store import FIT, TEST, TUNE

Tina = Callable[..., Result]
SMALL = Learning(width=16, layers=1, heads=2, steps=6, batch=4, pictures=2)
TINY = StudyRecipe(
    classes=3, zoo=4, shard=2, test_tasks=3, generic=Tuning(40, 48), pmodel=Tuning(4, 9), oracle=Tuning(4, 9), small=SMALL
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    bank = split_bank(drawn_classes(12, "train"), drawn_classes(6, "test"), 0.25, 0)
    conditions = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    folder = tmp_path_factory.mktemp("lab")
    return Lab(TARGETS["cnn-5k"], bank, conditions, TINY, folder, lambda **_: None, data_digest(bank), 2)


@pytest.mark.parametrize(("name", "count"), [("cnn-5k", 5_370), ("cnn-15k", 14_586), ("cnn-33k", 33_338), ("cnn-76k", 76_106)])
def test_targets_have_the_papers_sizes(name: str, count: int) -> None:
    assert TARGETS[name].parameters(10) == count


def test_a_network_is_what_torch_would_make_of_its_weights() -> None:
    target = TARGETS["cnn-5k"]
    body, _ = initial(target, 4, 0)
    rows = torch.randn(4, 33)
    x = torch.randn(5, 3, 32, 32)
    first, second = body.split([432, 4608])
    h = conv2d(x, first.view(16, 3, 3, 3), stride=2, padding=1).clamp_min(0)
    h = adaptive_avg_pool2d(conv2d(h, second.view(32, 16, 3, 3), padding=1).clamp_min(0), 1).flatten(1)
    want = linear(h, rows[:, :32], rows[:, 32])
    assert torch.allclose(forward(target, body, rows, x), want, atol=1e-5)
    many = forward_many(target, body.expand(2, -1), rows.expand(2, -1, -1), x.expand(2, *x.shape))
    assert torch.allclose(many[1], want, atol=1e-5)


def test_parts_never_mix(lab: Lab) -> None:
    for own in zip(*lab.bank.parts, strict=True):
        seen = [{tuple(picture.flatten().tolist()) for picture in part} for part in own]
        assert not seen[FIT] & seen[TUNE] and not seen[FIT] & seen[TEST] and not seen[TUNE] & seen[TEST]
    marked = Bank(["a", "b"], [[torch.full((4, 2), 10.0 * part + c) for c in range(2)] for part in range(3)])
    drawn = marked.draw([[0, 1], [1, 0]], 3, TUNE, "x")
    assert drawn[..., 0].tolist() == [[10.0] * 3 + [11.0] * 3, [11.0] * 3 + [10.0] * 3]


def test_few_pictures_are_few(lab: Lab) -> None:
    drawn = lab.bank.draw([[0, 1]], 200, FIT, "few", most=1)
    assert len(drawn[0, :200].flatten(1).unique(dim=0)) == 2  # one picture, and its mirror image


def test_tuning_many_is_tuning_each(lab: Lab) -> None:
    tasks, target = [[0, 1, 2], [3, 4, 5]], TARGETS["resnet20-head"]
    bank = Bank(lab.bank.names, [[torch.randn(8, 64, generator=torch.Generator().manual_seed(c)) for c in range(16)]] * 3)
    start = Networks(torch.zeros(2, 0), torch.zeros(2, 3, 65))
    both = finetune(target, bank, tasks, start, Tuning(5, 6, 1e-2), "same")
    # Another company draws other pictures: with one picture a class there is no choice.
    alone = [finetune(target, bank, tasks[i : i + 1], start[[i]], Tuning(5, 6, 1e-2), "same", most=1) for i in range(2)]
    both = finetune(target, bank, tasks, start, Tuning(5, 6, 1e-2), "same", most=1)
    assert torch.allclose(both.rows, torch.cat([one.rows for one in alone]), atol=1e-6)


def test_tasks_for_testing_are_never_trained_on(lab: Lab) -> None:
    zoo = {tuple(task) for task in lab.tasks("zoo", TINY.zoo, 3)}
    test = {tuple(task) for task in lab.tasks("test", 100, 3)}
    assert len(test) == 100 and not zoo & test


@pytest.mark.parametrize("kind", ["denoiser", "hypernetwork"])
def test_rows_are_a_set(kind: str) -> None:
    body, row, rng = 1000, 7, torch.Generator().manual_seed(1)
    network: Any = NetDenoiser(body, row, 8, 16, 2, 2) if kind == "denoiser" else Hypernetwork(body, row, 8, 16, 2)
    with torch.no_grad():
        network.to_row.weight.normal_(generator=rng)
        (network.to_chunk if kind == "denoiser" else network.to_body).normal_(generator=rng)
    x = State(torch.randn(2, body, generator=rng), torch.randn(2, 5, row, generator=rng))
    told, anchor, t = torch.randn(2, 5, 8, generator=rng), torch.randn(2, 5, row, generator=rng), torch.rand(2, generator=rng)
    order = torch.tensor([3, 1, 4, 0, 2])
    one = network(x, t, told, anchor)
    other = network(State(x.body, x.rows[:, order]), t, told[:, order], anchor[:, order])
    assert torch.allclose(other.rows, one.rows[:, order], atol=1e-4)
    assert torch.allclose(other.body, one.body, atol=1e-4)


def test_pure_noise_says_next_to_nothing() -> None:
    network, rng = NetDenoiser(1000, 7, 8, 16, 2, 2), torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.to_row.weight.normal_(generator=rng)
    told, anchor = torch.randn(1, 5, 8, generator=rng), torch.randn(1, 5, 7, generator=rng)
    x, y = (State(torch.randn(1, 1000, generator=rng), torch.randn(1, 5, 7, generator=rng)) for _ in range(2))
    early, late = (
        (network(x, t, told, anchor).rows - network(y, t, told, anchor).rows).norm()
        for t in (torch.ones(1), torch.tensor([0.5]))
    )
    assert early < 0.1 * late


def test_states_and_networks_are_one_another(lab: Lab) -> None:
    tasks, zoo = lab.zoo()
    for normalise in (True, False):
        space = fit_space(lab, tasks, zoo, Learning(normalise=normalise))
        anchor = space.anchor(space.shares(lab.conditions[torch.tensor(tasks)]))
        state = space.encode(zoo, anchor)
        again = State.of(state.flat(), *(part.shape[-1] for part in (state.body, state.rows)))
        assert torch.equal(again.body, state.body) and torch.equal(again.rows, state.rows)
        back = space.decode(state, anchor)
        assert torch.allclose(back.rows, zoo.rows, atol=1e-5)
        again = space.encode(back, anchor)  # of bodies, what classes differ by is kept, and the rest is left out
        assert torch.allclose(again.body, state.body, atol=1e-3)
        assert 0 < (back.bodies - zoo.bodies).norm() < (zoo.bodies - space.mean).norm()


def test_what_classes_add_to_bodies_is_found() -> None:
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.normal(size=(12, 50)))
    own -= own.mean(0)
    tasks = [rng.permutation(12)[:4].tolist() for _ in range(3000)]
    noise = torch.from_numpy(rng.normal(size=(3000, 50)))
    effects, basis = class_effects(tasks, (7 + own[torch.tensor(tasks)].sum(1) + noise).float(), 12)
    found = effects @ basis
    seen = 3000 * 4 / 12 * (1 - 4 / 12) * 12 / 11  # how many p-Models tell of a class, beside the others
    assert torch.allclose(found, (own * seen / (seen + DOUBT)).float(), atol=0.15)
    assert torch.allclose(basis @ basis.T, torch.diag(basis.square().sum(1)), atol=1e-3)  # orthogonal


def test_an_untrained_learner_is_its_anchors(lab: Lab) -> None:
    learner = learn(lab, replace(SMALL, steps=1, lr=0.0))
    task = lab.tasks("test", 1, 3)
    made, want, generic = learner.make(task), baselines.anchors(lab, task), start_from(lab.generic(), task)
    assert torch.allclose(made.bodies, want.bodies, atol=1e-5) and torch.allclose(made.rows, want.rows, atol=1e-5)
    assert 0 < (made.bodies - generic.bodies).norm() < 0.1 * generic.bodies.norm()
    assert (made.rows - generic.rows).norm() < 0.1 * generic.rows.norm()  # by regression on the conditions


def test_classes_are_told_by_names_and_by_pictures(lab: Lab) -> None:
    far = -lab.conditions  # pictures that no name is like
    shown = replace(lab, shown=[own[None] for own in far])
    tasks = lab.tasks("test", 3, 3)
    own = torch.tensor(tasks)
    assert torch.equal(tell(shown, tasks, 0.0, np.random.default_rng(0)), lab.conditions[own])
    told = tell(shown, tasks * 40, 0.5, np.random.default_rng(0))
    by_name = (told == lab.conditions[own].repeat(40, 1, 1)).all(-1)
    assert 0.4 < by_name.float().mean() < 0.6
    space = fit_space(shown, *shown.zoo(), Learning(shown=0.5))
    rows = lab.generic().rows[0]
    for told in (far, lab.conditions):
        assert (space.anchor(space.shares(told[None])).rows[0] - rows).norm() < 0.1 * rows.norm()


def test_trained_anchors_learn_what_a_network_of_all_classes_does(lab: Lab) -> None:
    learner = learn(lab, replace(SMALL, steps=8, share=0.0, train_anchors=True))
    network, tasks = learner.network, lab.tasks("test", 2, 3)
    shift = network.shift(learner.space.shares(lab.conditions[torch.tensor(tasks)]))
    assert network.common.abs().max() > 0 and shift.rows.abs().max() > 0
    assert not torch.allclose(shift.body[0], shift.body[1], atol=1e-5)  # each class adds its own
    assert network.shift(torch.eye(16)[None]).body.abs().max() < 1e-5  # and all together nothing
    deviations: Any = network.deviations
    with torch.no_grad():
        for last in (deviations.to_row.weight, deviations.to_row.bias, deviations.to_chunk):
            last.zero_()
    made, want = learner.make(tasks), baselines.anchors(lab, tasks)
    assert torch.allclose(made.bodies, want.bodies + network.common + shift.body @ learner.space.basis, atol=1e-5)
    assert torch.allclose(made.rows, want.rows + shift.rows, atol=1e-5)


def test_the_generic_model_is_trained_on_tasks_that_are_not_for_testing(lab: Lab) -> None:
    further = replace(lab, recipe=replace(TINY, further=Episodes(300, 4, 4, 2e-2)))
    tasks = lab.tasks("tune", 40, 3)
    before, after = (
        accuracies(lab.target, lab.bank, tasks, start_from(net, tasks), FIT) for net in (lab.generic(), further.generic())
    )
    assert sum(after) > sum(before)
    test = {tuple(task) for task in lab.tasks("test", TINY.test_tasks, 3)}
    drawn = lab.random_tasks(np.random.default_rng(0), 4000, 3)  # of 560 tasks
    assert not test & set(map(tuple, drawn))
    assert len(lab.random_tasks(np.random.default_rng(0), 20, 16)) == 20  # there is one task of all classes


def test_what_two_ask_for_at_once_is_made_once(lab: Lab) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        time.sleep(0.2)
        return {"x": torch.ones(1)}

    found = replace(lab, workers=2).side_by_side(lambda _: lab.keep("asked for twice", 0, make), range(2))
    assert len(made) == 1 and all(torch.equal(some["x"], torch.ones(1)) for some in found)


def test_training_goes_on_where_it_was_interrupted(lab: Lab, tmp_path: Path) -> None:
    lab.zoo()
    whole = learn(lab, replace(SMALL, steps=5), seed=3)

    class Stop(Exception):
        pass

    def report(**fields: Any) -> None:
        if fields.get("event") == "step":
            raise Stop

    again = replace(lab, folder=tmp_path)
    options = replace(SMALL, steps=5)
    again.zoo()
    with pytest.raises(Stop):
        learn(replace(again, report=report), options, seed=3)
    assert not list(tmp_path.rglob("denoiser*.safetensors"))
    made = learn(again, options, seed=3)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(made.network.state_dict()[name], value)


def test_seeds_and_names_make_the_noise(lab: Lab) -> None:
    learner = learn(lab, SMALL)
    deviations: Any = learner.network.deviations
    with torch.no_grad():
        deviations.to_row.weight.normal_(generator=torch.Generator().manual_seed(0))
    one, turned = learner.make([[0, 1, 2]]), learner.make([[2, 0, 1]])
    assert torch.allclose(turned.rows[0, [1, 2, 0]], one.rows[0], atol=1e-4)
    assert not torch.allclose(learner.make([[0, 1, 2]], seed=1).rows, one.rows, atol=1e-4)


def test_measures() -> None:
    found = {row["method"]: row for row in compare({
        "selection": [0.5, 0.6], "ours": [0.6, 0.7], "fine-tuned, all": [0.7, 0.8], "oracle": [0.75, 0.85]
    })}  # fmt: skip
    assert found["ours"]["recovery"] == pytest.approx(0.5)
    assert found["ours"]["of_oracle"] == pytest.approx(0.65 / 0.8)
    assert found["selection"]["ours_minus"]["mean"] == pytest.approx(0.1)
    assert found["selection"]["ours_minus"]["ci95"] == pytest.approx([0.1, 0.1])  # paired: the tasks' difficulty is out
    low, high = interval([0.0, 1.0] * 50)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62


def test_the_whole_study_in_miniature(tina: Tina, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "study"
    done = tina("evaluate", "--suite", "paper", "--smoke", "-o", out, "--json", "-q")
    assert done.code == 0, done.err
    assert set(done.json["sections"]) == {
        "tasks", "classes", "prompts", "unseen", "scaling", "generation", "ablation", "cost"
    }  # fmt: skip
    page = (out / "results.md").read_text()
    for method in ("selection", "row look-up", "paper's network", "ours", "oracle", "wrong names", "noise-added copy"):
        assert method in page
    assert len(list((out / "plots").iterdir())) == 4
    [table] = [
        rows for title, rows in done.json["sections"]["tasks"]["tables"].items() if "cnn-5k" in title and "unseen" in title
    ]
    accuracy = {row["method"]: row["accuracy"] for row in table}
    assert accuracy["selection"] > 0.4 > accuracy["nearest p-Model"] - 0.3  # four classes of drawn shapes
    assert all(row["seconds"] > 0 for row in done.json["sections"]["cost"]["tables"]["One core"])
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    refused = tina("evaluate", "--suite", "paper", "--smoke", "-o", out)
    assert refused.code == 2 and "--resume" in refused.err
    assert tina("evaluate", "--suite", "paper", "--smoke", "-o", out, "--resume", "-q").code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_wrong_usage(tina: Tina, tmp_path: Path) -> None:
    for arguments, words in (
        (["--suite", "other"], "unknown suite"),
        (["--suite", "paper"], "needs pictures"),
        (["--suite", "paper", "--smoke", "--recipe", "nothing"], "no recipe nothing"),
        (["--suite", "paper", "--smoke", "--experiment", "nothing"], "unknown experiment"),
    ):
        failed = tina("evaluate", *arguments, "-o", tmp_path / "s")
        assert failed.code == 2 and words in failed.err, failed.err
        assert len(failed.err.splitlines()) <= 2
    assert json.dumps(load_study("paper").classes) == "10"


def test_accuracy_is_of_the_asked_part(lab: Lab) -> None:
    generic = lab.generic()
    fit, test = (accuracies(lab.target, lab.bank, [lab.every], generic, part)[0] for part in (FIT, TEST))
    assert fit > 3 / 16 and 0 <= test <= 1
    network = NetDenoiser(10, 3, 4, 8, 1, 2)
    initialise(network, torch.Generator().manual_seed(0))
    first = network.from_row.weight.clone()
    initialise(network, torch.Generator().manual_seed(0))
    assert torch.equal(network.from_row.weight, first)
