"""`python -m trainables.train best.yaml`: final training of an exported recipe.

Trains the recipe at full length on all the data that may be trained on (val folded back in), over fresh
seeds, and measures on test. Leaves, for the best-documented use, the weights, the recipe, a table of recalls
per class and a model card. With `--as-searched` it does what the search did instead, val kept, and says
whether the result falls where the search predicted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.data.catalogue import DataError, module_of
from trainables.models import MODELS
from trainables.pipeline import Diverged, Pipeline
from trainables.plan import Plan, check
from trainables.registry import PlanError, did_you_mean, discover

FRESH_SEED = 5_000
"""Seeds of final training; no arm of a search uses them."""


class TrainError(ValueError):
    """A recipe that cannot be trained as asked."""


def read_recipe(path: Path) -> dict[str, Any]:
    """An exported recipe, its plan checked.

    Raises:
        TrainError: No such file, it is no exported recipe, or it names an unknown network.
        DataError: It names an unknown data set.
        PlanError: Its plan cannot be trained, e.g. because it names an unknown trick.
    """
    import yaml

    if not path.is_file():
        raise TrainError(f"{path}: no such file; python -m search.export --out {path} writes one")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(recipe, dict) or recipe.get("format") != 1:
        raise TrainError(f"{path}: not a recipe of python -m search.export (format: 1 is expected)")
    for key, kind in _PARTS.items():
        if not isinstance(recipe.get(key), kind):
            raise TrainError(f"{path}: {key} must be a {_KINDS[kind]}, got {recipe.get(key)!r}; export it again")
    name, imbalance, values = recipe["data"].get("name"), recipe["data"].get("imbalance"), recipe["measured"]
    if not isinstance(name, str) or not isinstance(imbalance, (int, float)):
        raise TrainError(f"{path}: data must have a name and an imbalance, got {recipe['data']!r}; export it again")
    if not isinstance(values.get("values"), list):
        raise TrainError(f"{path}: measured must have its values, got {values!r}; export it again")
    try:
        module_of(name)
        if recipe["model"] not in MODELS:
            known = did_you_mean(recipe["model"], MODELS)
            raise TrainError(f"unknown model {recipe['model']!r}: {known}")
        discover(*recipe["provenance"].get("tricks", ()))
        check(Plan.from_dict(recipe["plan"]))
    except (PlanError, DataError, TrainError) as error:
        raise type(error)(f"{path}: {error}") from error
    return recipe


_PARTS = {"recipe": str, "title": str, "data": dict, "model": str, "plan": dict, "measured": dict,
          "conflicts": list, "provenance": dict}  # fmt: skip
"""What an exported recipe has."""
_KINDS = {str: "text", dict: "mapping", list: "list"}


def lengthened(plan: Plan, factor: float) -> Plan:
    """The plan with every stage's epochs multiplied."""
    return Plan(tuple(replace(stage, epochs=max(1, round(stage.epochs * factor))) for stage in plan.stages))


def train_one(recipe: Mapping[str, Any], plan: Plan, seed: int, fold_val: bool, root: str | None, show: Any) -> Any:
    """Trains one seed; the finished pipeline."""
    import torch

    from trainables.data import load
    from trainables.trial import pick_device

    device = pick_device("auto")
    if device.type == "cpu":
        torch.set_num_threads(1)
    own = recipe["data"]
    data = load(own["name"], root=root, imbalance=own["imbalance"], split_seed=seed, fold_val=fold_val)
    pipeline = Pipeline(plan, data, recipe["model"], seed, device, evaluate=not fold_val)
    while not pipeline.finished:
        pipeline.advance()
        show(pipeline.progress)
    return pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; 2 where that cannot be done, 1 where `--as-searched` falls outside the prediction."""
    parser = argparse.ArgumentParser(prog="python -m trainables.train", description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="file written by python -m search.export")
    parser.add_argument("--seeds", type=int, default=None, help="fresh seeds (default: 1; 5 with --as-searched)")
    parser.add_argument("--as-searched", action="store_true", help="val kept; must fall in the search's prediction")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="of the full length (default: 1)")
    parser.add_argument("--data-root", help="folder of the data, where it is not bundled")
    parser.add_argument("--out", type=Path, default=Path("trained"), help="folder for the model (default: trained)")
    options = parser.parse_args(arguments)
    try:
        return _main(options)
    except (TrainError, PlanError, DataError, Diverged, OSError) as error:
        print(f"trainables.train: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what is trained so far is not kept, start the command again", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    recipe = read_recipe(options.recipe)
    plan = Plan.from_dict(recipe["plan"])
    seeds = options.seeds if options.seeds is not None else (5 if options.as_searched else 1)
    if seeds < 1:
        raise TrainError(f"--seeds must be at least 1, got {seeds}")
    if not 0 < options.epochs_scale < math.inf:
        raise TrainError(f"--epochs-scale must be a number above 0, got {options.epochs_scale}")
    if options.as_searched and options.epochs_scale != 1:
        raise TrainError("--as-searched repeats what the search did, at its length; leave --epochs-scale out")
    root = options.data_root or recipe["provenance"].get("data_root")
    if not options.as_searched:
        plan = lengthened(plan, options.epochs_scale * _to_full_length(recipe, root))
    kind = "as searched, val kept" if options.as_searched else "val folded back in"
    console.print(f"recipe {recipe['recipe']}: {recipe['title']}\n{plan}\n{seeds} seeds, {kind}", highlight=False)
    if not options.as_searched:
        options.out.mkdir(parents=True, exist_ok=True)  # what cannot be written must not be found out after training
    finished = []
    with Progress(console=console, transient=True) as progress:
        for number in range(seeds):
            bar = progress.add_task(f"seed {number + 1}/{seeds}", total=1.0)
            began = time.perf_counter()
            pipeline = train_one(
                recipe, plan, FRESH_SEED + number, not options.as_searched, root,
                lambda done, bar=bar: progress.update(bar, completed=done),
            )  # fmt: skip
            finished.append((FRESH_SEED + number, pipeline, time.perf_counter() - began))
            progress.remove_task(bar)
    if options.as_searched:
        return _compare(console, recipe, finished)
    _keep(console, recipe, plan, finished, options.out)
    return 0


def _to_full_length(recipe: Mapping[str, Any], root: str | None) -> float:
    """Factor on the plan's epochs: a search may have trained shorter than the data set's final training."""
    from trainables.data import standard

    own = standard(recipe["data"]["name"], root)
    return own.final_epochs / (own.epochs * float(recipe["measured"].get("epochs_scale", 1.0)))


def _compare(console: Any, recipe: Mapping[str, Any], finished: Sequence[tuple[int, Any, float]]) -> int:
    """Whether the mean of fresh runs falls in the search's prediction interval."""
    from scipy import stats

    values = [pipeline.result()[0]["final/accuracy"] for _, pipeline, _ in finished]
    earlier = recipe["measured"]["values"]
    mean = sum(values) / len(values)
    for (seed, _, seconds), value in zip(finished, values, strict=True):
        console.print(f"  seed {seed}: accuracy on val {100 * value:.1f} %, {seconds:.1f} s", highlight=False)
    if len(earlier) < 2:
        console.print("The search has one run of this recipe: it predicts nothing. Export one that raced.")
        return 1
    before = sum(earlier) / len(earlier)
    spread = math.sqrt(sum((value - before) ** 2 for value in earlier) / (len(earlier) - 1))
    half = float(stats.t.ppf(0.975, len(earlier) - 1)) * spread * math.sqrt(1 / len(earlier) + 1 / len(values))
    inside = before - half <= mean <= before + half
    console.print(
        f"mean of {len(values)} fresh seeds {100 * mean:.1f} %; predicted from the search's {len(earlier)} seeds: "
        f"{100 * (before - half):.1f} to {100 * (before + half):.1f} % (95 %): {'inside' if inside else 'OUTSIDE'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0 if inside else 1


def _keep(
    console: Any, recipe: Mapping[str, Any], plan: Plan, finished: Sequence[tuple[int, Any, float]], out: Path
) -> None:
    """Writes weights, recipe, recalls and model card; prints what was measured on test."""
    import yaml
    from safetensors.torch import save_file

    measured = []
    for seed, pipeline, seconds in finished:
        metrics, recalls, _ = pipeline.test()
        network = pipeline.network()
        file = f"model-seed{seed}.safetensors"
        weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, str(out / file), metadata={"recipe": recipe["recipe"], "model": recipe["model"]})
        measured.append({"seed": seed, "file": file, "seconds": seconds, "metrics": metrics, "recalls": recalls})
        accuracy = 100 * metrics["test/accuracy"]
        console.print(
            f"  seed {seed}: accuracy on test {accuracy:.1f} %, {seconds:.1f} s, {out / file}", highlight=False
        )
    (out / "recipe.yaml").write_text(
        yaml.safe_dump({**recipe, "plan": plan.to_dict()}, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    (out / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    data = finished[0][1].data
    (out / "MODEL_CARD.md").write_text(_card(recipe, plan, measured, data), encoding="utf-8")
    console.print(f"written to {out}: weights, recipe.yaml, metrics.json, MODEL_CARD.md", highlight=False)


def _card(recipe: Mapping[str, Any], plan: Plan, measured: Sequence[Mapping[str, Any]], data: Any) -> str:
    """The model card."""
    accuracies = [run["metrics"]["test/accuracy"] for run in measured]
    mean = 100 * sum(accuracies) / len(accuracies)
    spread = ""
    if len(accuracies) > 1:
        sd = math.sqrt(sum((100 * a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1))
        spread = f" ± {sd:.1f} (standard deviation over {len(accuracies)} seeds)"
    searched = sum(stage["epochs"] for stage in recipe["plan"]["stages"])
    length = f"{plan.epochs} epochs" + (
        ""
        if plan.epochs == searched
        else f"; what the search found was measured at {100 * searched / plan.epochs:.0f} %"
    )
    rows = [
        f"| {name} | {count} | " + " | ".join(f"{100 * run['recalls'][label]:.1f}" for run in measured) + " |"
        for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True))
    ]
    seeds = " | ".join(f"recall, seed {run['seed']} (%)" for run in measured)
    warnings = [f"- {verdict['pair']}: {verdict['verdict']}. {verdict['reason']}" for verdict in recipe["conflicts"]]
    return "\n".join(
        [
            f"# {recipe['model']} on {recipe['data']['name']}, imbalance {recipe['data']['imbalance']:g}",
            "",
            f"Recipe {recipe['recipe']} of the search {recipe['provenance']['search']}: {recipe['title']}.",
            "",
            "## Training",
            "",
            "```",
            str(plan),
            "```",
            "",
            f"Length: {length}. Val was folded back into the training data ({int(data.counts.sum())} images).",
            "",
            "## Test",
            "",
            f"Accuracy (mean recall) on test: {mean:.1f} %{spread}. Nothing was chosen by it.",
            "",
            f"| class | training images | {seeds} |",
            "|---|---|" + "---|" * len(measured),
            *rows,
            "",
            "## Verdicts that concern this recipe",
            "",
            *(warnings or ["None of its pairs was screened, or the table had too little to say."]),
            "",
            "## Use",
            "",
            "```python",
            "import torch",
            "from safetensors.torch import load_file",
            "from trainables.models import build",
            "",
            f'network = build("{recipe["model"]}", classes={data.classes}, '
            f"channels={int(data.train_images.shape[1])}, generator=torch.Generator())",
            f'network.load_state_dict(load_file("{measured[0]["file"]}"))',
            "network.eval()",
            "```",
            "",
            f"Images: uint8, divided by 255, minus mean {data.mean.tolist()}, divided by {data.std.tolist()}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
