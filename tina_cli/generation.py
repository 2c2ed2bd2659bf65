"""GENERATION: a prompt -> a model. Read this first.

    names       the prompt's classes                                        prompt.py
    senses      which crane is meant                                        lexicon.py
    evidence    words and pictures as vectors of CLIP's space               clip.py, prior.py
    guidance    what the denoiser is told: conditions and anchor rows       prior.py
    rows        noise, a few steps through the denoiser                     sampling.py, denoiser.py
    head        weight and bias                                             codec.py
    model       with temperature, threshold, expected accuracy              calibration.py, modelfile.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.calibration import expected_accuracy, task_signs
from tina_cli.clip import sentences, text_condition
from tina_cli.codec import head_parameters
from tina_cli.device import choose_device
from tina_cli.errors import UsageError
from tina_cli.generator import Generator, find_generator, open_generator
from tina_cli.images import expand
from tina_cli.lexicon import Sense
from tina_cli.modelfile import FORMAT, Model
from tina_cli.prior import Evidence, guide, picture_condition
from tina_cli.prompt import check_classes, parse_prompt
from tina_cli.sampler import SAMPLERS
from tina_cli.sampling import sample_rows_for


@dataclass(frozen=True)
class Request:
    """What is asked for: exact class names, pictures and descriptions for some of them, and how to sample."""

    classes: Sequence[str]
    images: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    describe: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0  # 0 is the generator's own number
    sampler: str = ""  # empty is the generator's own
    samples: int = 1
    bundle: bool = False


def understand(prompt: str, generator: Generator) -> list[str]:
    """Return the class names of a prompt; raises `PromptError`."""
    return parse_prompt(prompt, generator.lexicon.singular)


def generate_model(generator: Generator, request: Request) -> Model:
    """Generate the model of a request; raises `UsageError`, `PromptError` or `ImageError` for one that cannot be met."""
    names = check_classes(request.classes)
    sampler = request.sampler or generator.info["sampler"]["name"]
    steps = request.steps or generator.info["sampler"]["steps"]
    check_request(request, names, sampler, steps, generator.info["sampler"]["timesteps"])

    known = frozenset(concept.sense for concept in generator.concepts if concept.sense)
    senses = generator.lexicon.choose(names, known)
    evidence, classes = [], []
    for name, sense in zip(names, senses, strict=True):
        item, note = gather(generator, name, sense, request)
        evidence.append(item)
        classes.append(note)
    guidance = guide(generator.prior, evidence)

    best: tuple[float, Tensor] | None = None
    for number in range(request.samples):
        rows = sample_rows_for(
            generator.denoiser, guidance, names, request.seed + number, sampler, steps,
            generator.info["sampler"]["timesteps"], generator.device,
        )  # fmt: skip
        expected = expected_accuracy(task_signs(rows, guidance), generator.calibration.accuracy)
        if best is None or expected > best[0]:
            best = (expected, rows)
    assert best is not None
    weight, bias = head_parameters(best[1], generator.feature_mean)
    info: dict[str, Any] = {
        "format": FORMAT,
        "classes": classes,
        "backbone": generator.spec.to_json(),
        "generator": generator.identity,
        "seed": request.seed,
        "sampler": sampler,
        "steps": steps,
        "samples": request.samples,
        "temperature": generator.calibration.temperature,
        "threshold": generator.calibration.threshold,
        "expected_accuracy": round(best[0], 4),
    }
    return Model(weight, bias, info, generator.backbone.module.state_dict() if request.bundle else {})


def check_request(request: Request, names: Sequence[str], sampler: str, steps: int, timesteps: int) -> None:
    """Raise `UsageError` where a request contradicts itself or the generator."""
    if sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}", hint=f"one of {', '.join(SAMPLERS)}")
    if not 1 <= steps <= timesteps:
        raise UsageError(f"--steps must be from 1 to {timesteps}, not {steps}")
    if request.samples < 1:
        raise UsageError("--samples must be at least 1")
    for option, given in (("--image", request.images), ("--describe", request.describe)):
        for name in given:
            if name not in names:
                raise UsageError(f"{option} names {name!r}, which is no class here", hint=f"the classes: {', '.join(names)}")


def gather(generator: Generator, name: str, sense: Sense | None, request: Request) -> tuple[Evidence, dict[str, Any]]:
    """Return what is known of one class, and the note of it that goes into the model file.

    Pictures or descriptions say what a name means; the name's own sense counts only where there are neither.
    """
    note: dict[str, Any] = {"name": name}
    words: Tensor | None = None
    texts = list(request.describe.get(name, ()))
    paths = expand(request.images.get(name, ()))
    if texts:
        words = text_condition(generator.clip, texts)
        note["descriptions"] = texts
    elif not paths:
        words = text_condition(generator.clip, sentences(name, sense, generator.lexicon))
        note |= {"sense": sense.id, "gloss": sense.gloss} if sense else {"sense": None}
    if not paths:
        assert words is not None
        return Evidence(words, words=words), note
    features = generator.backbone.read(paths)
    seen = picture_condition(features, generator.projection)
    note["pictures"] = len(paths)
    visual = normalize(features - generator.feature_mean, dim=-1).mean(0)
    condition = seen if words is None else normalize(words + seen, dim=-1)
    return Evidence(condition, visual, len(paths), words), note


def generate(
    prompt: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    images: Mapping[str, Sequence[Path]] | None = None,
    describe: Mapping[str, Sequence[str]] | None = None,
    weights: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    seed: int = 0,
    steps: int = 0,
    sampler: str = "",
    samples: int = 1,
    bundle: bool = False,
) -> Model:
    """Generate a model from a prompt, or from exact class names; raises `TinaError` and its children."""
    generator = open_generator(find_generator(weights), choose_device(device), clip)
    if (prompt is None) == (classes is None):
        raise UsageError("give either a prompt or classes")
    names = understand(prompt, generator) if prompt is not None else list(classes or ())
    request = Request(names, images or {}, describe or {}, seed, steps, sampler, samples, bundle)
    return generate_model(generator, request)
