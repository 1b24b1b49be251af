"""What every part of a search may look at and nothing changes: space, settings, data, network, deployment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from analysis.records import mlflow_store
from analysis.records.schema import FRESH, SPACE_CHANGES
from analysis.text import sentence
from search.design.labels import Design
from search.execution.uploaded_code import tricks_for
from search.recipes.factory import RecipeFactory
from search.recipes.start_points import StartPoint, check_start_points, notes_on, read_start_points
from search.scheduling.early_stopping import SHORTENED, CohortASHA
from search.scheduling.objective import PARTS, check_objective
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings, SettingsError
from search.workspace.folder import kept_list
from search.workspace.identity import SEEDS_APART
from spaces.domain import Space
from trainables import data
from trainables.batch import pixels_of
from trainables.data import LongTailed, Standard
from trainables.deployment import Deployment, read
from trainables.models import MODELS, ModelError, check, check_on, input_format, is_own, settled, untrained
from trainables.pipeline.joint_seeds import fused_stages
from trainables.pipeline.keys import features_key, stage_keys, start_key, trial_context
from trainables.plan import Plan, check_layers, check_space, provided
from trainables.registry import discover
from trainables.trial_spec import TrialSpec, cached_data

BUNDLED = "digits-lt"
"""The data that come with the libraries."""


class Splits:
    """The data of a search, one split for each seed block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fingerprints: dict[int, str] = {}

    def load(self, seed: int) -> LongTailed:
        """The data of a split."""
        settings = self._settings
        return cached_data(settings.data, settings.data_root, settings.imbalance, seed)

    @property
    def first(self) -> LongTailed:
        """The data of the first seed block."""
        return self.load(self._settings.seed * SEEDS_APART)

    @property
    def min_val_images(self) -> int:
        """Val images of the class that has fewest."""
        first = self.first
        return int(first.val_labels.bincount(minlength=first.classes).min())

    def fingerprint(self, seed: int) -> str:
        """Fingerprint of a split when it was first loaded: data that change while the search runs are detected."""
        if seed not in self._fingerprints:
            self._fingerprints[seed] = self.load(seed).fingerprint
        return self._fingerprints[seed]


@dataclass(frozen=True)
class SearchContext:
    """A search before anything is trained.

    Args:
        space: What may vary.
        settings: Settings with which names and paths mean the same in every process.
        standard: Standard recipe of the data set.
        model: Name of the network.
        deployment: How results are weighted.
        splits: The data.
        code_uploaded: Whether the workers were sent the project's code.
        starts: Start points of the user's own.
        space_changes: What readers must know of changes of the space, in sentences; "" where it never changed.
    """

    space: Space
    settings: Settings
    standard: Standard
    model: str
    splits: Splits
    deployment: Deployment = field(default_factory=Deployment)
    code_uploaded: bool = False
    starts: tuple[StartPoint, ...] = ()
    space_changes: str = ""

    @staticmethod
    def make(space: Space, settings: Settings) -> SearchContext:
        """Loads the tricks and resolves the names of data and network.

        Raises:
            ValueError: Something that the search cannot be started with.
        """
        named = settings.data if settings.feed == "auto" else data.with_feed(settings.data, settings.feed)
        name, root = data.resolve_root(named, settings.data_root)
        for folder in settings.tricks:
            try:
                discover(folder)
            except Exception as error:
                why = str(error) if str(error).startswith("--tricks") else f"--tricks {folder}: {error}"
                raise SettingsError(why) from error
        discover()
        changes: dict[str, Any] = {
            "data": name, "data_root": root,
            # the exported recipe must find them from anywhere
            "tricks": tuple(str(Path(folder).resolve()) for folder in settings.tricks),
        }  # fmt: skip
        if settings.objective == "both":
            changes["rungs"] = ()  # Optuna prunes nothing where there are two objectives
        CohortASHA(settings.rungs, settings.reduction_factor, settings.rung_score)  # refuses what it cannot use
        standard = data.standard(name, root)
        try:
            model = settled(settings.model or space.model or standard.model)
            check(model)
            expected = input_format(model)
        except ModelError as error:
            raise SettingsError(f"--model: {error}") from error
        if settings.model or space.model:
            changes["model"] = model  # with absolute paths, wherever the search is resumed from
        if expected is not None:
            name = changes["data"] = data.with_size(name, expected.size, expected.interpolation)
        standard = dataclasses.replace(standard, provides=provided(name, model))
        check_space(space, standard)
        settings = dataclasses.replace(settings, **changes)
        starts = read_start_points(settings.start, settings.folder, model, settings.epochs_scale, settings.tricks)
        context = SearchContext(space, settings, standard, model, Splits(settings), starts=starts)
        _ = context.design  # refuses a design that cannot be made
        return context

    def with_settings(self, **changes: Any) -> SearchContext:
        """The same search with some settings that do not decide what it finds."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **changes))

    # --- recipes ------------------------------------------------------------------------------------------

    @cached_property
    def factory(self) -> RecipeFactory:
        """Builds the recipes of the search."""
        settings, kind = self.settings, self.settings.design
        if kind is not None and kind.startswith("list:"):
            kept = settings.folder / kept_list(kind)
            kind = f"list:{kept}" if kept.is_file() else kind
        own = [(start.recipe, start.title) for start in self.starts]
        return RecipeFactory(
            self.space, self.standard, settings.epochs_scale, kind=kind, primary=settings.primary, own_starts=own
        )

    @cached_property
    def start_notes(self) -> tuple[str, ...]:
        """What a person should know of the start points, in sentences."""
        left_out = self.factory.published.left_out if self.settings.start_points else ()
        return (*left_out, *notes_on(self.starts, self.settings.seed * SEEDS_APART))

    @property
    def design(self) -> Design:
        """The cells of the design arm."""
        return self.factory.design

    def early_stopping(self) -> CohortASHA:
        """The early stopping of the adaptive arm, which has seen nothing yet."""
        return CohortASHA(self.settings.rungs, self.settings.reduction_factor, self.settings.rung_score)

    # --- checks -------------------------------------------------------------------------------------------

    def check_data(self) -> None:
        """Refuses, for the preview, an objective and options of the bundled data that a run would refuse.

        Other data may not be here yet, and are not fetched to look at their options.

        Raises:
            ValueError: An option that does not fit the data.
        """
        settings = self.settings
        bundled = settings.data.partition("?")[0] == BUNDLED
        if bundled and (settings.prior is not None or settings.cost is not None):
            read(settings.prior, settings.cost, self.splits.first.class_names)
        if bundled and (settings.imbalance is not None or settings.data != BUNDLED):
            self.splits.load(settings.seed * SEEDS_APART)
        if bundled:
            check_start_points(self.starts, settings)
        if settings.objective != "accuracy":
            self.check_objective()
        if not is_own(self.model):  # code of the user's may ask for the data's own number of classes
            check_layers(self.space, lambda: untrained(self.model))

    def check_objective(self) -> None:
        """Refuses an objective that val is too small for; loads the first split.

        Raises:
            SettingsError: Fewer than 50 val images in some class, for anything but accuracy.
        """
        check_objective(self.settings.objective, self.settings.data, [self.splits.min_val_images])

    def check_model(self) -> None:
        """Refuses weights of another architecture, a network that cannot be run, and tricks that find no layer in it.

        Raises:
            ValueError: The network does not fit the data, or the space.
        """
        first = self.splits.first
        shape = tuple(map(int, first.train_images.shape[1:]))
        if self.model not in MODELS or (self.model == "linear") != (self.standard.model == "linear"):
            check_on(self.model, classes=first.classes, shape=shape)
        check_layers(self.space, lambda: untrained(self.model, classes=first.classes, channels=shape[0]))

    # --- trials -------------------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Kind of device that trials train on."""
        return "cuda" if self.settings.gpus_per_trial else "cpu"

    def keys(self, request: TrialRequest) -> list[list[str]]:
        """Stage keys of a trial, as its worker will compute them."""
        settings, plan = self.settings, request.recipe.plan
        cuda = self.device == "cuda" and torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
        marks = [(seed, self.splits.fingerprint(seed)) for seed in request.joint_seeds]
        fingerprint = self.splits.fingerprint(request.seed)
        context = trial_context(fingerprint, self.model, request.seed, device, settings.numerics, marks)
        # the workers', which train with one thread, and not this process's
        context["numerics"] |= {"device": self.device, "threads": 1}
        shortened = request.may_stop and settings.rung_score == SHORTENED
        plans = [plan, *(plan.shortened(rung) for rung in settings.rungs if shortened)]
        stages = [stage_keys(each, context) for each in plans]
        # features of a start are work that two trials may share, like a stage
        features = [
            [features_key(keys[index - 1][-1] if index else start_key(context), stage)]
            for each, keys in zip(plans, stages, strict=True)
            for index, stage in enumerate(each.stages)
            if stage.views
        ]
        return [key for keys in stages for key in keys] + features

    def trains_jointly(self, plan: Plan) -> bool:
        """Whether several seeds of a plan are trained in one network."""
        pixels = pixels_of(self.splits.first.train_images)
        return bool(fused_stages(plan, self.settings.numerics, self.device, pixels))

    def spec(self, request: TrialRequest) -> dict[str, Any]:
        """The JSON-serialisable `TrialSpec` of a trial."""
        return dataclasses.replace(
            self.plain_spec(request.recipe.plan, request.seed),
            rungs=self.settings.rungs if request.may_stop else (),
            shortened=request.may_stop and self.settings.rung_score == SHORTENED,
            read_test=request.read_test,
            calibrate=request.arm in FRESH,
            joint_seeds=request.joint_seeds,
            fingerprint=self.splits.fingerprint(request.seed),
        ).to_dict()

    def plain_spec(self, plan: Plan, seed: int) -> TrialSpec:
        """A trial that is never stopped and reads no test split."""
        settings = self.settings
        return TrialSpec(
            plan=plan.to_dict(),
            seed=seed,
            split_seed=seed,
            data=settings.data,
            root=settings.data_root,
            imbalance=settings.imbalance,
            model=self.model,
            store=settings.store_place if settings.reuse else None,
            tricks=tricks_for(settings, self.code_uploaded),
            target=PARTS[settings.objective],
            device=self.device,
            numerics=settings.numerics.to_dict(),
            deployment=self.deployment.to_dict() if self.deployment else None,
        )

    def params(self) -> dict[str, Any]:
        """Settings and facts of the search, as MLflow, the report and the exported recipe show them."""
        settings = self.settings
        fields = dataclasses.asdict(settings) | {"model": self.model, "margin": self.standard.margin}
        fields["tracking_uri"] = mlflow_store.portable(settings.tracking_uri or "")
        fields["imbalance"] = settings.imbalance or self.standard.imbalance
        fields |= {"design": self.design.kind, "primary": ",".join(settings.primary)}
        fields["val_images_per_class"] = self.splits.min_val_images
        fields["data_notes"] = "\n".join(map(sentence, self.splits.first.notes))
        fields["final_share"] = round(self.factory.share, 4)
        fields[SPACE_CHANGES] = self.space_changes
        return {key: value for key, value in fields.items() if value not in (None, (), "")}
