"""GENERATION: a prompt -> a model. Read this first.

names       the prompt's classes                                        prompt.py
senses      which crane is meant                                        senses.py, lexicon.py, spelling.py
evidence    words and pictures as vectors of CLIP's space               words.py, clip.py, prior.py
guidance    what the denoiser is told: conditions and anchor rows       prior.py
rows        noise, a few steps through the denoiser                     sampling.py, denoiser.py
head        weight and bias                                             codec.py
model       with temperature, threshold, expected accuracy              calibration.py, modelfile.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.calibration import task_signs
from tina_cli.codec import head_parameters
from tina_cli.denoiser import Guidance
from tina_cli.device import choose_device
from tina_cli.errors import PromptError, UsageError
from tina_cli.generator import Generator, open_generator
from tina_cli.images import expand
from tina_cli.lexicon import Sense, normalise
from tina_cli.modelfile import FORMAT, Model
from tina_cli.prior import Evidence, guide, picture_condition, picture_evidence
from tina_cli.prompt import bare_name, check_classes, check_text, parse_prompt
from tina_cli.sampler import SAMPLERS
from tina_cli.sampling import Draw, Sampling, sample_rows
from tina_cli.spelling import respell
from tina_cli.weights import find_generator


@dataclass(frozen=True)
class Request:
    """What is asked for: exact class names, pictures and descriptions for some of them, and how to sample."""

    classes: Sequence[str]
    images: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    describe: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    steps: int | None = None  # None is the generator's own number
    sampler: str | None = None
    samples: int = 1
    bundle: bool = False
    strict: bool = False  # a name that is far from all that is known, or means what another does, is an error


@dataclass(frozen=True)
class Meaning:
    """What one class name is taken to mean: pictures or descriptions where there are any, else a sense of the lexicon."""

    name: str
    sense: Sense | None = None
    spelled: str | None = None  # the name that was probably meant, where it is misspelled
    descriptions: Sequence[str] = ()
    pictures: Sequence[Path] = ()

    def note(self) -> dict[str, Any]:
        """Return what the model file says of the class."""
        if not self.descriptions and not self.pictures:
            meant = {"taken_for": self.spelled} if self.spelled else {}
            if self.sense and self.sense.id:
                return {"name": self.name, **meant, "sense": self.sense.id, "gloss": self.sense.gloss}
            return {"name": self.name, **meant, "sense": None} | ({"kind_of": self.sense.hypernyms[0]} if self.sense else {})
        texts = {"descriptions": list(self.descriptions)} if self.descriptions else {}
        return {"name": self.name, **texts, **({"pictures": len(self.pictures)} if self.pictures else {})}


def make_request(generator: Generator, prompt: str | None, options: Mapping[str, Any]) -> Request:
    """Return the request that a prompt, or `options["classes"]`, and further options make; raises `UsageError`.

    With a prompt, pictures and descriptions find their class in the singular and in the plural: `cat=` is the prompt's "cats".
    """
    values = dict(options)
    if prompt is None:
        return Request(**values)
    values["classes"] = classes = parse_prompt(prompt, generator.lexicon.singular)
    for key in ("images", "describe"):
        found: dict[str, list[Any]] = {}
        for name, what in (values.get(key) or {}).items():
            found.setdefault(same_class(name, classes, generator.lexicon.singular), []).extend(what)
        values[key] = found
    return Request(**values)


def same_class(name: str, classes: Sequence[str], singular: Callable[[str], str]) -> str:
    """Return the class that a name is, whatever its number and case; the name itself where it is none."""
    forms = {form.casefold() for form in (name, singular(name), f"{name}s", f"{name}es")}
    return next((found for found in classes if found.casefold() in forms), name)


def understand(generator: Generator, request: Request) -> list[Meaning]:
    """Return what each class of a request is taken to mean; raises `UsageError`, `PromptError` or `ImageError`."""
    names = check_classes(request.classes)
    for option, given in (("--image", request.images), ("--describe", request.describe)):
        for name in given:
            if name not in names:
                raise UsageError(f"{option} names {name!r}, which is no class here", hint=f"the classes: {', '.join(names)}")
    for text in chain.from_iterable(request.describe.values()):
        check_text(text)
    said = [*request.describe, *request.images]
    bare = [name if name in said or is_name(generator, name) else bare_name(name) for name in names]
    senses = generator.choose_senses(bare)
    likely = [
        plain if sense or name in said or generator.knows(plain) else respell(plain, generator.lexicon) or plain
        for name, plain, sense in zip(names, bare, senses, strict=True)
    ]
    others = {normalise(name) for name in names}  # two classes do not become one
    spelled = [None if normalise(meant) in others or likely.count(meant) > 1 else meant for meant in likely]
    if (meant := [a or b for a, b in zip(spelled, names, strict=True)]) != bare:
        senses = generator.choose_senses(meant)
    return [
        Meaning(name, sense, meant, request.describe.get(name, ()), expand(request.images.get(name, ())))
        for name, sense, meant in zip(names, senses, spelled, strict=True)
    ]


def is_name(generator: Generator, text: str) -> bool:
    """Say whether a text is the name of something known, and no sentence about it."""
    return bool(generator.lexicon.candidates(text)) or generator.knows(text)


def described(generator: Generator, text: str) -> Tensor:
    """Return the condition [d] of a description; one that only names something, as "a photo of a dog" does, is that name's."""
    name = bare_name(text)
    if is_name(generator, name):
        return generator.condition_of(name, generator.choose_senses([name])[0])
    return generator.conditions.of([text])


@dataclass(frozen=True)
class Plan:
    """A request understood: what its classes mean, what the denoiser is told of them, how it is sampled."""

    request: Request
    meanings: Sequence[Meaning]
    guidance: Guidance
    how: Sampling
    far: Mapping[str, Sequence[str]]  # names whose words are far from all that is known -> what is nearest
    same: Mapping[str, str]  # names that mean the same as an earlier one -> that one

    @property
    def draws(self) -> list[Draw]:
        """Return the models to sample, of which the best is kept."""
        names = [meaning.name for meaning in self.meanings]
        return [Draw(self.guidance, names, self.request.seed + number) for number in range(self.request.samples)]


def make_plan(generator: Generator, request: Request, meanings: Sequence[Meaning] | None = None) -> Plan:
    """Return how the model of a request, perhaps understood already, is to be made.

    Raises `UsageError`, `PromptError` or `ImageError`.
    """
    how = sampling_of(generator, request)
    meanings = understand(generator, request) if meanings is None else meanings
    evidence = [gather(generator, meaning) for meaning in meanings]
    guidance = guide(generator.text_anchors, evidence)
    novelty = guidance.evidence[0, :, 0].tolist()
    far = {
        meaning.name: generator.nearest(item.words)
        for meaning, item, new in zip(meanings, evidence, novelty, strict=True)
        if item.words is not None and not item.pictures and new > generator.far
    }
    if far and request.strict:
        name, nearest = next(iter(far.items()))
        raise PromptError(
            f"{name!r} is far from all that is known, of which {', '.join(nearest)} are nearest",
            hint=f'say more with --describe "{name}=..." or show pictures with --image "{name}=..."',
        )
    same = same_meaning(meanings)
    if same and request.strict:
        name, other = next(iter(same.items()))
        raise PromptError(f"{name!r} and {other!r} mean the same", hint=f'say how they differ: --describe "{name}=..."')
    return Plan(request, meanings, guidance, how, far, same)


def sampling_of(generator: Generator, request: Request) -> Sampling:
    """Return how the model of a request is sampled; raises `UsageError`."""
    how = generator.sampling
    how = replace(how, sampler=request.sampler or how.sampler, steps=how.steps if request.steps is None else request.steps)
    check_sampling(how, request.samples)
    return how


def same_meaning(meanings: Sequence[Meaning]) -> dict[str, str]:
    """Return the classes that only words tell, in the very sense of an earlier one, which they are mapped to."""
    first: dict[str, str] = {}
    found = {}
    for meaning in meanings:
        if meaning.sense and meaning.sense.id and not meaning.descriptions and not meaning.pictures:
            earlier = first.setdefault(meaning.sense.id, meaning.name)
            if earlier != meaning.name:
                found[meaning.name] = earlier
    return found


def generate_model(generator: Generator, request: Request) -> Model:
    """Generate the model of a request; raises `UsageError`, `PromptError` or `ImageError` for one that cannot be met."""
    return sample_plan(generator, make_plan(generator, request))


def sample_plan(generator: Generator, plan: Plan) -> Model:
    """Sample the model of a plan."""
    rows = [sample_rows(generator.denoiser, [draw], plan.how, generator.device)[0] for draw in plan.draws]
    return finish_model(generator, plan, rows)


def finish_model(generator: Generator, plan: Plan, drawn: Sequence[Tensor]) -> Model:
    """Return the model of a plan by the rows [K, D] of its draws: the one of the best expected accuracy."""
    calibration, signs = generator.calibration, [task_signs(rows, plan.guidance) for rows in drawn]
    expected = list(map(calibration.accuracy_of, signs))
    best = expected.index(max(expected))
    weight, bias = head_parameters(drawn[best], generator.feature_mean)
    info = {
        "format": FORMAT,
        "classes": [meaning.note() | doubts(plan, meaning.name) for meaning in plan.meanings],
        "backbone": generator.spec.to_json(),
        "generator": generator.identity,
        "seed": plan.request.seed + best,
        "sampler": plan.how.sampler,
        "steps": plan.how.steps,
        "temperature": round(calibration.temperature_of(signs[best]), 6),
        "threshold": calibration.threshold,
        "expected_accuracy": round(expected[best], 4),
    }
    return Model(weight, bias, info, generator.backbone_state() if plan.request.bundle else {})


def doubts(plan: Plan, name: str) -> dict[str, Any]:
    """Return what the model file says of a class that is far from all that is known, or means what another does."""
    far = {"nearest_known": list(plan.far[name])} if name in plan.far else {}
    return far | ({"same_as": plan.same[name]} if name in plan.same else {})


def check_sampling(how: Sampling, samples: int) -> None:
    """Raise `UsageError` for a sampler, or numbers, that cannot be."""
    if how.sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {how.sampler!r}", hint=f"one of {', '.join(SAMPLERS)}")
    if not 1 <= how.steps <= how.timesteps:
        raise UsageError(f"--steps must be from 1 to {how.timesteps}, not {how.steps}")
    if samples < 1:
        raise UsageError(f"--samples must be at least 1, not {samples}")


def gather(generator: Generator, meaning: Meaning) -> Evidence:
    """Return the vectors of what is known of one class."""
    words: Tensor | None = None
    if meaning.descriptions:
        words = normalize(torch.stack([described(generator, text) for text in meaning.descriptions]).mean(0), dim=-1)
    elif not meaning.pictures:
        words = generator.condition_of(meaning.spelled or meaning.name, meaning.sense)
    if not meaning.pictures:
        assert words is not None
        return Evidence(words, words=words)
    features = generator.backbone.read(meaning.pictures)
    seen = picture_condition(features, generator.projection)
    visual = normalize(features - generator.feature_mean, dim=-1).mean(0)
    return picture_evidence(seen, visual, len(meaning.pictures), words)


def generate(
    prompt: str | None = None,
    *,
    weights: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    cache: bool = True,
    **options: Any,
) -> Model:
    """Generate a model from a prompt, or from exact names given as `classes`; the other options are `Request`'s.

    With `cache`, conditions are kept in the user's cache directory.
    Raises `TinaError` and its children.
    """
    if (prompt is None) == ("classes" not in options):
        raise UsageError("give either a prompt or classes")
    generator = open_generator(find_generator(weights), choose_device(device), clip, cache)
    return generate_model(generator, make_request(generator, prompt, options))
