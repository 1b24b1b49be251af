"""How fast training is, each thing beside its plain counterpart: `python tests/benchmarks/training_speed.py PART`.

- `epoch`: one training epoch beside a plain reference loop as public long-tail repositories write it (PIL
  transforms, DataLoader workers that start anew every epoch, `loss.item()` and the batch's accuracy every step): same
  network, same number of images, one thread.
- `shares`: what the time of such an epoch goes into.
- `feed`: images alone, cropped, mirrored, normalised: one process, beside the PIL transforms.
- `members`: four members of balanced training and merging together and one by one.
- `trials`: whole short trials of four seeds together and one by one.
- `format`: channels_last beside contiguous, by size; where the rules of `trainables/training/numerics.py` come from.
- `files`: 20,000 JPEG files streamed, beside a plain ImageFolder loop.
- `memory`: peak memory of a process that trains one epoch.
- `goals`: what a GPU is to reach: whole trainings of Bag of Tricks' baseline, ResNet-32 on CIFAR-10-LT, alone and
  several at a time; four seeds as one network and steps as CUDA graphs, each with a verdict: keep it or delete it.

CPU: seconds of CPU time of the process and its workers, because machines are shared; wall beside it. The variants of
a table take turns, and the least disturbed turn of each counts. On a machine with a GPU the same tables are of wall
time there. Images: CIFAR-10-LT where `../shared/data` has it (or LONGTAIL_SHARED says where), noise of its shape else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import runpy
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from spaces.domain import Space, Stage
from spaces.papers.bag_of_tricks import BASELINE
from trainables.data import LongTailed, load, standard
from trainables.data.loaders import feed_of
from trainables.models import build as network
from trainables.pipeline.joint_seeds import JointSeeds
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan, build, defaults
from trainables.training.acceleration.fusion import FusedRun
from trainables.training.context import CarryOver
from trainables.training.numerics import Numerics
from trainables.training.seeding import generator
from trainables.training.stage_run import StageRun

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHARED = Path(os.environ.get("LONGTAIL_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
FP32, BF16 = Numerics(fused_members="off"), Numerics(precision="bf16", fused_members="off")


def pictures(count: int, side: int = 32, channels: int = 3) -> LongTailed:
    """So many training images of CIFAR-10-LT, or noise."""
    digits = load("digits-lt", split_seed=0)
    pack = SHARED / "cifar10_lt_if100.npz"
    if side == 32 and channels == 3 and pack.is_file():
        arrays = runpy.run_path(str(SHARED / "unpack.py"))["load"](pack)
        pixels = torch.from_numpy(arrays["x_train"].copy()).permute(0, 3, 1, 2).contiguous()
        pixels = pixels[torch.randperm(len(pixels), generator=generator(0))[:count]]
    else:
        pixels = torch.randint(256, (count, channels, side, side), generator=generator(0), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % 10
    few = slice(0, 100)
    return replace(
        digits, train_images=pixels, train_labels=labels, val_images=pixels[few], val_labels=labels[few],
        test_images=pixels[few], test_labels=labels[few], mean=torch.full((channels,), 0.5),
        std=torch.full((channels,), 0.25), pad=side // 8, flip=channels == 3, fingerprint="",
    ).to(DEVICE)  # fmt: skip


def spent() -> tuple[float, float]:
    """CPU seconds of this process and of its children that have ended; wall seconds."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime, time.perf_counter()


def in_turns(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float, float]]:
    """(least CPU seconds, median of them, least wall seconds) of each variant."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            cpu, wall = spent()
            work()
            cpu_after, wall_after = spent()
            taken[name].append((cpu_after - cpu, wall_after - wall))
    return {
        name: (min(c for c, _ in times), median(c for c, _ in times), min(w for _, w in times))
        for name, times in taken.items()
    }


def table(title: str, measured: dict[str, tuple[float, float, float]], images: int, first: str) -> None:
    """A row for each variant, with its ratio to the first one."""
    print(f"\n{title}\n\n| | CPU ms/image | spread | wall ms/image | times `{first}`, CPU | wall |")
    print("|---|---|---|---|---|---|")
    for name, (cpu, middle, wall) in measured.items():
        scale = 1000 / images
        ratios = measured[first][0] / cpu, measured[first][2] / wall
        print(
            f"| {name} | {cpu * scale:.3f} | +{100 * (middle / cpu - 1):.0f} % | {wall * scale:.3f} | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} |",
            flush=True,
        )


# --- the reference loop -------------------------------------------------------------------------------------


class Pictures(Dataset[Any]):
    """As the public repositories': an array, PIL, a transform per image."""

    def __init__(self, data: LongTailed) -> None:
        pixels = data.train_images.cpu().permute(0, 2, 3, 1).numpy()
        self.pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        self.labels = data.train_labels.cpu().numpy()
        side = pixels.shape[1]
        steps = [transforms.RandomCrop(side, padding=data.pad)]
        if data.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(data.mean.tolist(), data.std.tolist())]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def reference(data: LongTailed, model: str, batch: int, workers: int) -> Callable[[], None]:
    """An epoch of the plain loop."""
    files = Pictures(data)
    net = network(model, classes=10, channels=int(data.train_images.shape[1]), generator=generator(0)).to(DEVICE)
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    criterion = nn.CrossEntropyLoss()

    def epoch() -> None:
        loader = DataLoader(
            files, batch_size=batch, shuffle=True, num_workers=workers, pin_memory=DEVICE.type == "cuda"
        )
        losses, right = 0.0, 0.0
        for images, labels in loader:
            images, labels = images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)
            logits = net(images).logits
            loss = criterion(logits, labels)
            losses += loss.item()
            right += (logits.argmax(dim=1) == labels).float().mean().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return epoch


def ours(data: LongTailed, model: str, batch: int, numerics: Numerics) -> Callable[[], None]:
    """An epoch of the training loop."""
    pipeline = Pipeline(plan(batch), data, model, 0, DEVICE, numerics=numerics)
    return pipeline.executor.start().run.train_epoch


def plan(batch: int) -> Any:
    """One long plain stage."""
    stages = [Stage("only", epochs=1000, batch_size=batch)]
    return build(Space(stages=stages), defaults(), standard("digits-lt")).plan


# --- the parts ------------------------------------------------------------------------------------------------


def epoch(quick: bool) -> None:
    """Part 1."""
    digits = load("digits-lt", split_seed=0).to(DEVICE)
    cases = [
        ("ResNet-8, digits 8×8, 276 images, batch 64", "resnet8", digits, 64, 4 if quick else 12),
        ("ResNet-8, CIFAR 32×32, batch 128", "resnet8", pictures(640 if quick else 2560), 128, 2 if quick else 4),
        ("ResNet-32, CIFAR 32×32, batch 128", "resnet32", pictures(256 if quick else 1280), 128, 1 if quick else 3),
    ]
    for title, model, data, batch, rounds in cases:
        variants = {
            "reference loop, 1 worker": reference(data, model, batch, 1),
            "reference loop, in the process": reference(data, model, batch, 0),
            "fp32": ours(data, model, batch, FP32),
            "bf16": ours(data, model, batch, BF16),
        }
        variants["fp32"](), variants["bf16"]()  # tables and buffers are made once
        table(title, in_turns(variants, rounds), len(data.train_labels), "reference loop, in the process")


KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "BatchNorm": ("batch_norm",),
    "ReLU": ("threshold_backward", "clamp_min", "relu"),
    "sums of gradients and shortcuts": ("aten::add", "aten::add_"),
    "optimiser": ("fused_sgd", "SGD"),
}
"""Of an operation by what its name holds, the first that fits; whatever else there is, is ours or small."""


def shares(quick: bool) -> None:
    """What the time of part 1 goes into."""
    from torch.profiler import ProfilerActivity, profile

    cuda = [ProfilerActivity.CUDA] if DEVICE.type == "cuda" else []
    found: dict[str, dict[str, float]] = {}
    for precision, numerics in (("fp32", FP32), ("bf16", BF16)):
        work = ours(pictures(256 if quick else 1280), "resnet32", 128, numerics)
        work()
        with profile(activities=[ProfilerActivity.CPU, *cuda]) as seen:
            work()
        spent = {
            row.key: row.self_device_time_total if cuda else row.self_cpu_time_total for row in seen.key_averages()
        }
        parts = dict.fromkeys((*KINDS, "all else"), 0.0)
        for name, time_ in spent.items():
            parts[next((kind for kind, names in KINDS.items() if any(n in name for n in names)), "all else")] += time_
        found[precision] = {kind: 100 * time_ / sum(parts.values()) for kind, time_ in parts.items()}
    print("\nWhere an epoch of ResNet-32 goes, 32×32, batch 128\n\n| % of the time | fp32 | bf16 |\n|---|---|---|")
    for kind in found["fp32"]:
        print(f"| {kind} | {found['fp32'][kind]:.1f} | {found['bf16'][kind]:.1f} |", flush=True)


def feed(quick: bool) -> None:
    """Part 2."""
    data = pictures(2560 if quick else 10240)
    batches = list(torch.arange(len(data.train_labels), device=DEVICE).split(128))
    files = Pictures(data)
    tenth = len(files) // 10

    def pil() -> None:
        for first in range(0, tenth, 128):
            torch.stack([files[number][0] for number in range(first, min(first + 128, tenth))]).to(DEVICE)

    def resident() -> None:
        for images in feed_of(data).augmented(batches, generator(1)):
            data.normalise(images)

    resident()
    found = in_turns({"PIL": pil, "resident": resident}, 5)
    rates = {"PIL": tenth / found["PIL"][0], "resident": len(files) / found["resident"][0]}
    print(
        "\nFeeds, 32×32, crop, mirror, normalise, one process\n\n| feed | images/s of CPU time | ratio |\n|---|---|---|"
    )
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['PIL']:.1f} |")


def members(quick: bool) -> None:
    """Part 4."""
    print("\nFour members, an epoch of 200 images each\n")
    print("| network | images | batch | pixels of a batch | ms one by one | ms together | faster |")
    print("|---|---|---|---|---|---|---|")
    cases = [("resnet8", 8, 20), ("resnet8", 8, 64), ("resnet8", 16, 20), ("resnet8", 16, 50), ("resnet20", 16, 20)]
    cases += [] if quick else [("resnet8", 32, 20), ("resnet8", 32, 100), ("resnet32", 32, 20)]
    for model, side, batch in cases:
        data = pictures(200, side, 1 if side == 8 else 3)
        stages = [
            Stage("a", epochs=1),
            Stage("b", epochs=500, members=4, carry="weights", batch_size=batch, choose=["average"]),
        ]
        whole = build(Space(stages=stages), defaults(), standard("digits-lt")).plan
        pipeline = Pipeline(whole, data, model, 0, DEVICE, numerics=FP32)
        start = StageRun(pipeline.context, whole, 0, 0, None).carry_over()

        def runs(
            numerics: Numerics, whole: Any = whole, pipeline: Any = pipeline, start: Any = start
        ) -> list[StageRun]:
            place = replace(pipeline.context, numerics=numerics)
            return [StageRun(place, whole, 1, member, CarryOver(start.model)) for member in range(4)]

        alone = runs(FP32)
        together = FusedRun(runs(FP32))
        fastest = {
            "one by one": lambda alone=alone: [run.train_epoch() for run in alone],
            "together": together.train_epoch,
        }
        fastest["one by one"](), fastest["together"]()
        found = in_turns(fastest, 3 if quick else 7)
        one, other = found["one by one"][0], found["together"][0]
        print(
            f"| {model} | {side}×{side} | {batch} | {batch * side**2:,} | {1000 * one:.0f} | {1000 * other:.0f} | "
            f"{one / other:.2f} |", flush=True,
        )  # fmt: skip


def trials(quick: bool) -> None:
    """Part 4, of trials."""
    epochs, rounds = (3, 3) if quick else (12, 5)
    print(f"\nFour seeds of a recipe, {epochs} epochs of digits-lt each, evaluations included\n")
    print("| network | batch | pixels of a batch | s one by one | s together | faster |\n|---|---|---|---|---|---|")
    splits = [load("digits-lt", split_seed=seed).to(DEVICE) for seed in range(4)]
    on = Numerics(fused_trials="on")
    for model, batch in (("resnet8", 20), ("resnet8", 64), ("resnet20", 64), ("resnet8", 128)):
        whole = replace(plan(batch), stages=(replace(plan(batch).stages[0], epochs=epochs),))

        def made(whole: Any = whole, model: str = model) -> list[Pipeline]:
            return [Pipeline(whole, data, model, seed, DEVICE, numerics=on) for seed, data in enumerate(splits)]

        def alone(made: Any = made) -> None:
            for pipeline in made():
                pipeline.run()

        def together(made: Any = made) -> None:
            lead, *others = made()
            joint = JointSeeds(lead, lambda: [None, *others])
            while not lead.executor.finished:
                joint.advance()

        alone(), together()
        found = in_turns({"alone": alone, "together": together}, rounds)
        one, other = found["alone"][0], found["together"][0]
        print(f"| {model} | {batch} | {64 * batch:,} | {one:.2f} | {other:.2f} | {one / other:.2f} |", flush=True)


def memory_format(quick: bool) -> None:
    """Where the rule for channels_last comes from."""
    print("\n| network | images | batch | pixels of a batch | fp32, channels_last | bf16 | bf16, channels_last |")
    print("|---|---|---|---|---|---|---|")
    cases = [(8, 50), (8, 128), (16, 50), (16, 128), (32, 50), (32, 128)]
    for side, batch in cases[: 4 if quick else 6]:
        data = pictures(4 * batch, side)
        variants = {
            (precision, last): ours(data, "resnet8", batch, Numerics(precision=precision, channels_last=last))
            for precision in ("fp32", "bf16")
            for last in ("off", "on")
        }
        for work in variants.values():
            work()
        found = in_turns({str(key): work for key, work in variants.items()}, 5 if side < 32 else 3)
        plain = found["('fp32', 'off')"][0]
        ratios = [plain / found[str(key)][0] for key in (("fp32", "on"), ("bf16", "off"), ("bf16", "on"))]
        print(
            f"| resnet8 | {side}×{side} | {batch} | {batch * side**2:,} | "
            + " | ".join(f"{r:.2f}" for r in ratios)
            + " |",
            flush=True,
        )


def files(quick: bool) -> None:
    """Part 7."""
    count, rounds = (2_000, 1) if quick else (20_000, 2)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "photos"
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_write, place), range(10), [count // 10] * 10))
        data = load(f"folder:{place}?size=64&crop=resized&feed=streamed&workers=2")
        batches = list(torch.randperm(len(data.train_labels), generator=generator(0)).split(128))
        plain = transforms.Compose(
            [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
             transforms.Normalize([0.5] * 3, [0.25] * 3)]
        )  # fmt: skip
        loop = datasets.ImageFolder(str(place), plain)
        chosen = torch.utils.data.Subset(loop, range(len(data.train_labels)))

        def folders() -> None:
            for images, _ in DataLoader(chosen, 128, shuffle=True, num_workers=2, pin_memory=DEVICE.type == "cuda"):
                images.to(DEVICE)

        def streamed() -> None:
            for images in feed_of(data.to(DEVICE)).augmented(batches, generator(1)):
                data.normalise(images)

        next(iter(feed_of(data).raw(batches[:2])))  # starts the workers
        found = in_turns({"ImageFolder, 2 workers": folders, "streamed, 2 workers": streamed}, rounds)
    # CPU time of workers that persist is not counted before they end: wall alone
    print(f"\n{len(data.train_labels):,} JPEG files of 96×128 to 128×96 pixels, resized crops of 64×64\n")
    print("| loop | images/s | ratio |\n|---|---|---|")
    walls = {name: times[2] for name, times in found.items()}
    for name, wall in walls.items():
        print(f"| {name} | {len(data.train_labels) / wall:,.0f} | {walls['ImageFolder, 2 workers'] / wall:.2f} |")


def _write(place: Path, label: int, count: int) -> None:
    draw = np.random.default_rng(label)
    (place / f"class{label}").mkdir(parents=True)
    for number in range(count):
        small = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        size = (128, 96) if number % 2 else (96, 128)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(
            place / f"class{label}" / f"{number}.jpg", quality=90
        )


def memory(quick: bool) -> None:
    """Part 6."""
    print("\nPeak memory of a process that trains one epoch and evaluates\n\n| | MB above an idle process |\n|---|---|")
    many = 1_000 if quick else 12_406
    cases = [
        ("resnet8 on digits-lt, fp32", "resnet8", 0, "fp32"),
        (f"resnet8 on {many:,} images of 32×32, fp32", "resnet8", many, "fp32"),
        ("the same, bf16", "resnet8", many, "bf16"),
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        idle = pool.apply(_peak, ("", 0, ""))
    for title, *case in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"| {title} | {pool.apply(_peak, case) - idle:.0f} |", flush=True)


def _peak(model: str, images: int, precision: str) -> float:
    """MB, of CIFAR-shaped images where there are any, of the digits else; of nothing without a model."""
    torch.set_num_threads(1)
    if model:
        data = pictures(images) if images else load("digits-lt", split_seed=0).to(DEVICE)
        short = replace(plan(128), stages=(replace(plan(128).stages[0], epochs=1),))
        Pipeline(short, data, model, 0, DEVICE, numerics=Numerics(precision=precision)).run()
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


ALONE, HOURLY = 35.0, (150, 400)
"""Seconds of a whole training alone, and trainings an hour, that a GPU is to reach."""

WORTH_KEEPING = 1.5
"""What makes training less than so many times faster is deleted."""

SLOTS = (1, 2, 4, 8)
"""Trainings at a time."""


def _baseline(epochs: int) -> Plan:
    """Plain training of 200 epochs, or shortened."""
    return build(Space(BASELINE.stages), defaults(), standard("cifar10-lt"), epochs / 200).plan


def _train(seed: int, images: int, epochs: int, numerics: Numerics) -> None:
    """A whole training, evaluations included."""
    torch.set_num_threads(1)
    Pipeline(_baseline(epochs), pictures(images), "resnet32", seed, DEVICE, numerics=numerics).run()


def _verdict(name: str, ratio: float) -> str:
    if DEVICE.type == "cpu":
        return f"{name}: {ratio:.2f} times as fast; judged on a GPU only"
    words = "keep it" if ratio >= WORTH_KEEPING else f"below {WORTH_KEEPING} times: delete it"
    return f"{name}: {ratio:.2f} times as fast, {words}"


def goals(quick: bool) -> None:
    """Part 9."""
    images, whole, part = (256, 2, 2) if quick else (12_406, 200, 20)
    slots = SLOTS[:2] if quick else SLOTS
    plain = Numerics(precision="bf16" if DEVICE.type == "cuda" else "fp32")
    print(f"\nBag of Tricks' baseline, ResNet-32, {images:,} images, {whole} epochs, evaluations included\n")
    _train(0, images, 1, plain)
    seconds = in_turns({"alone": lambda: _train(0, images, whole, plain)}, 1)["alone"][2]
    goal, hourly = ("", "") if quick else (f" (goal: {ALONE:g} s)", f" (goals: {HOURLY[0]}, then {HOURLY[1]})")
    print(f"alone: {seconds:.1f} s{goal}", flush=True)
    rates = []
    for at_a_time in slots:
        with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(partial(_train, images=images, epochs=1, numerics=plain), range(at_a_time)))
            began = time.perf_counter()
            list(pool.map(partial(_train, images=images, epochs=part, numerics=plain), range(at_a_time)))
            rates.append(3600 * at_a_time / (time.perf_counter() - began) * part / whole)
        print(f"{at_a_time} at a time: {rates[-1]:.0f} an hour{hourly}", flush=True)

    data, joint = pictures(images), replace(plain, fused_trials="on")

    def alone() -> None:
        for seed in range(4):
            Pipeline(_baseline(part), data, "resnet32", seed, DEVICE, numerics=joint).run()

    def together() -> None:
        lead, *others = (Pipeline(_baseline(part), data, "resnet32", seed, DEVICE, numerics=joint) for seed in range(4))
        seeds = JointSeeds(lead, lambda: [None, *others])
        while not lead.executor.finished:
            seeds.advance()

    found = in_turns({"alone": alone, "together": together}, 1 if quick else 2)
    of_many = 3600 / max(rates) * part / whole  # seconds of a shortened training where most are at a time
    print(_verdict("four seeds as one network, beside one process", found["alone"][2] / found["together"][2]))
    ratio = of_many / (found["together"][2] / 4)
    print(_verdict("four seeds as one network, beside several processes", ratio), flush=True)
    graphs = {graph: partial(_train, 0, images, part, replace(plain, graph=graph)) for graph in ("off", "on")}
    graphs["on"]()
    found = in_turns(graphs, 1 if quick else 2)
    print(_verdict("steps as CUDA graphs", found["off"][2] / found["on"][2]), flush=True)


PARTS = {
    "epoch": epoch, "shares": shares, "feed": feed, "members": members, "trials": trials, "format": memory_format,
    "files": files, "memory": memory, "goals": goals,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts that are named; all where none is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them where none is named")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds: does it run at all")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {DEVICE.type}, {os.cpu_count()} cores, one thread")
    for part in options.parts or PARTS:
        PARTS[part](options.quick)


if __name__ == "__main__":
    main()
