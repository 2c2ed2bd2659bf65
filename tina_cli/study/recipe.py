"""Every number of a run of the study, read from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tina_cli.config import read_recipe


@dataclass(frozen=True)
class Tuning:
    """How a network is fitted to pictures: Adam, a cosine to zero, so many pictures a step."""

    steps: int = 200
    batch: int = 60
    lr: float = 1e-2


@dataclass(frozen=True)
class Episodes:
    """How one network of all classes is trained on random tasks; no steps: it is left as it is."""

    steps: int = 0
    batch: int = 8  # tasks
    pictures: int = 8  # of each class
    lr: float = 5e-3


@dataclass(frozen=True)
class Learning:
    """How a generator of networks is built and trained."""

    width: int = 192
    layers: int = 3
    heads: int = 4
    steps: int = 1500
    batch: int = 8  # tasks
    share: float = 0.5  # of them, that are the zoo's; the others are drawn anew, and have no p-Model
    pictures: int = 8  # of each class
    lr: float = 1e-3
    distance: float = 1.0  # weight of the distance to the p-Model
    functional: float = 1.0  # weight of the cross-entropy of the predicted network
    normalise: bool = True
    anchored: bool = True  # networks are told as deviations from what regression on the conditions gives
    train_anchors: bool = False  # which is itself trained on: what does every task good is no deviation
    noise: float = 0.1  # added to the conditions, its length beside theirs
    shown: float = 0.0  # of the classes are told by pictures, half of these with their names
    sizes: tuple[int, ...] = ()  # numbers of classes of the tasks drawn anew; none: the recipe's


@dataclass(frozen=True)
class Paper:
    """The paper's own network and its training."""

    width: int = 256
    layers: int = 6
    heads: int = 8
    steps: int = 4000
    batch: int = 32
    lr: float = 4e-4


@dataclass(frozen=True)
class StudyRecipe:
    """Every number of the study."""

    name: str = "paper"
    seed: int = 0
    targets: tuple[str, ...] = ("cnn-5k",)
    classes: int = 10
    pictures: int = 500  # of each class, at most
    clip_pictures: int = 500  # of each class and part that the CLIP sees
    tune_share: float = 0.2
    zoo: int = 1000
    shard: int = 50
    seen_tasks: int = 50
    test_tasks: int = 100
    few_tasks: int = 30  # where each task is costly
    seeds: int = 3
    steps: int = 4
    sampler: str = "ddim"
    paper_steps: int = 1000
    samples: int = 8
    experts: int = 5
    mixer_steps: int = 300
    generic: Tuning = field(default_factory=Tuning)  # on all classes at once
    further: Episodes = field(default_factory=Episodes)  # and further, a whole network's
    trunk: Tuning = field(default_factory=Tuning)
    pmodel: Tuning = field(default_factory=Tuning)
    oracle: Tuning = field(default_factory=Tuning)
    few: Tuning = field(default_factory=Tuning)  # on few pictures a class
    head_generic: Tuning = field(default_factory=Tuning)  # the same of heads on frozen trunks
    head_pmodel: Tuning = field(default_factory=Tuning)
    head_oracle: Tuning = field(default_factory=Tuning)
    ours: Learning = field(default_factory=Learning)
    heads: Learning = field(default_factory=Learning)  # ours, for heads on frozen trunks
    small: Learning = field(default_factory=Learning)  # where many are compared
    paper: Paper = field(default_factory=Paper)
    shots: tuple[int, ...] = (1, 5, 20)
    larger: tuple[str, ...] = ("cnn-15k",)  # larger targets, by a smaller zoo
    larger_zoo: int = 100
    larger_further: Episodes = field(default_factory=Episodes)  # and a shorter training of the generic model
    sizes: tuple[int, ...] = (2, 3, 5, 10, 20, 50, 100)
    zoo_sizes: tuple[int, ...] = (30, 100, 300, 1000)
    widths: tuple[int, ...] = (64, 192, 384)
    sample_steps: tuple[int, ...] = (1, 2, 3, 5, 10, 50, 1000)
    near: tuple[str, ...] = ()  # classes kept out in the study of unseen classes whose kin is seen
    far: tuple[str, ...] = ()  # and whole superclasses kept out

    def reduced(self) -> StudyRecipe:
        """Return the recipe of larger targets and other sets of classes: fewer p-Models, a shorter generic model."""
        return replace(self, zoo=self.larger_zoo, further=self.larger_further)


def load_study(name: str) -> StudyRecipe:
    """Load a recipe of the study shipped with it, by name, or a TOML file by its path; raises `UsageError`."""
    return read_recipe(StudyRecipe, name, "study/recipes")
