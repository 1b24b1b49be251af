"""One trial as Ray runs it: reported, saved, restored, and its process used again."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from analysis.records.schema import Decisions
from spaces.domain import Stage, trick
from trainables.data.loaders import held_bytes
from trainables.deployment import Deployment
from trainables.pipeline.joint_seeds import JointSeeds
from trainables.pipeline.storage import StoreFull
from trainables.trial import Trial, TrialFailed, folder_of, pick_device, pipeline_of
from trainables.trial_spec import Splits, TrialSpec, cached_data

PLANS = {
    "members": [
        Stage("a", epochs=3, choose=["input_mixup"]),
        Stage("b", epochs=2, members=2, choose=["few_shot", "average"]),
        Stage("c", epochs=2, carry="all"),
    ],
    "classifier": [Stage("a", epochs=3), Stage("b", epochs=3, choose=["classifier", "class_balanced"])],
    "cosine": [Stage("a", epochs=3, choose=["cosine_head", trick("ldam", max_margin=0.3)])],
    "wild": [Stage("a", epochs=3, lr=1e6)],
}


@pytest.fixture
def config(make_plan):
    """config(name, …): what Ray hands to a trial."""

    def made(name: str, **more: object) -> dict[str, str]:
        spec = TrialSpec(
            plan=make_plan(*PLANS[name]).to_dict(), seed=1, split_seed=1, data="digits-lt", root=None, imbalance=50.0,
            model="resnet8", rungs=(0.25, 0.5, 1.0), device="cpu",
        )  # fmt: skip
        return {"spec": json.dumps(dataclasses.replace(spec, **more).to_dict())}

    return made


@pytest.fixture
def trial():
    """trial(config): a trial; stopped after the test."""
    made = []

    def make(config) -> Trial:
        made.append(Trial(config))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def finish(one: Trial) -> list[dict]:
    results = [one.step()]
    while not results[-1]["done"]:
        results.append(one.step())
    return results


TIMES = ("seconds", "seconds_saved", "memory")


def timeless(result: dict) -> dict:
    return result | {"payload": {name: value for name, value in result["payload"].items() if name not in TIMES}}


# --- errors -----------------------------------------------------------------------------------------------


def broken_spec(config, **more) -> dict:
    return {"spec": json.dumps(json.loads(config("cosine")["spec"]) | more)}


def test_an_error_is_a_result_and_then_ends_the_process(config, trial):
    one = trial(broken_spec(config, data="nothing-of-that-name"))
    told = one.step()
    assert (told["outcome"], told["points"], told["payload"]) == ("failed", [], {})
    assert told["failure"].startswith("ValueError: ") or "nothing-of-that-name" in told["failure"]
    assert json.loads(json.dumps(told)) == told and not told.get("done")
    with pytest.raises(TrialFailed, match="nothing-of-that-name"):
        one.step()
    # where Ray uses the process again all the same, nothing of it stays
    assert one.reset_config(config("cosine")) and finish(one)[-1]["outcome"] == "finished"


def test_an_error_in_training_is_told_with_its_kind(config, trial, monkeypatch):
    def full(self, *arguments, **named):
        raise StoreFull(28, "the disk of the stage store X is full")

    one = trial(config("cosine"))
    monkeypatch.setattr(JointSeeds, "advance", full)
    assert one.step()["failure"] == "the disk of the stage store X is full"
    other = trial(config("cosine"))
    monkeypatch.setattr(JointSeeds, "advance", lambda self: torch.zeros(2)[5])
    assert other.step()["failure"] == "IndexError: index 5 is out of bounds for dimension 0 with size 2"


def test_what_is_warned_of_is_reported_once(config, trial, tmp_path):
    spec = config("classifier", store=str(tmp_path))
    finish(trial(spec))
    for file in tmp_path.glob("*/*/tensors.safetensors"):
        file.write_bytes(b"")
    results = finish(trial(spec))
    notes = [note for result in results for note in result["notes"]]
    assert len(notes) == 2 == len(set(notes)) and all("is damaged" in note for note in notes), notes
    assert not [note for result in finish(trial(spec)) for note in result["notes"]]


# --- what it reports --------------------------------------------------------------------------------------


def test_results_are_json_and_their_points_are_the_curve(config, trial):
    results = finish(trial(config("members")))
    assert json.loads(json.dumps(results)) == results
    last = results[-1]
    assert (last["outcome"], last["done"], last["progress"]) == ("finished", True, 1.0)
    assert all((result["outcome"], result["done"]) == ("running", False) for result in results[:-1])
    curve = [point for result in results for point in result["points"]]
    assert curve == last["payload"]["curve"]
    assert [(point["stage"], point["epoch"]) for point in curve] == [("a", 3), ("b", 5), ("c", 7)]
    assert last["score"] == curve[-1]["metrics"]["accuracy"] == last["payload"]["metrics"]["final/accuracy"]
    payload = last["payload"]
    assert (payload["epochs"], payload["epochs_trained"], payload["reused"]) == (9, 9, [])
    assert payload["counts"] == cached_data("digits-lt", None, 50.0, 1).counts.tolist()
    assert payload["val_counts"] == [44] * 10
    assert len(payload["recalls"]) == 10
    # every seed block draws its own val
    assert payload["correct"] == []
    assert not [name for name in payload["metrics"] if name.startswith("test")]


def test_where_val_is_given_it_reports_which_images_are_right(config, trial, tmp_path):
    digits = cached_data("digits-lt", None, 50.0, 1)
    splits = {
        f"{axis}_{split}": getattr(digits, f"{split}_{what}").numpy()
        for split in ("train", "val", "test")
        for axis, what in (("x", "images"), ("y", "labels"))
    }
    np.savez(tmp_path / "own.npz", **splits)
    own = {"data": "npz:own.npz", "root": str(tmp_path), "imbalance": None}
    payloads = [finish(trial(config("cosine", seed=seed, split_seed=seed, **own)))[-1]["payload"] for seed in (1, 2)]
    assert payloads[0]["fingerprint"] == payloads[1]["fingerprint"]
    for payload in payloads:
        right = np.array(payload["correct"])
        assert right.shape == (440,) and set(right) <= {0, 1}
        by_class = [right[splits["y_val"] == label].mean() for label in range(10)]
        assert by_class == pytest.approx(payload["recalls"])
    assert payloads[0]["correct"] != payloads[1]["correct"]


def test_it_reports_where_a_rung_is_passed(config, trial):
    progress = [result["progress"] for result in finish(trial(config("members", rungs=(0.4, 0.7))))]
    # 3 of 7 epochs, then the merge at 5 of 7, then the end, unless a second has passed in between
    assert {3 / 7, 5 / 7, 1.0} <= set(progress)


def test_a_reused_stage_is_reported_no_further_than_the_next_rung(config, trial, make_plan, tmp_path):
    """It is judged where it would have been judged, so it may be stopped there with nothing behind it known."""
    plan = make_plan(Stage("a", epochs=8), Stage("b", epochs=2)).to_dict()
    plan["stages"][0]["eval_every"] = 1
    made = config("classifier", plan=plan, rungs=(0.25, 0.5, 0.75), store=str(tmp_path))
    cold, warm = finish(trial(made)), finish(trial(made))
    assert warm[-1]["payload"]["reused"] == ["a", "b"] and warm[-1]["payload"]["epochs_trained"] == 0
    # 10 epochs: the first points behind the rungs are those of the epochs 3, 5 and 8; then the second stage
    ends = [result["points"][-1]["epoch"] for result in warm]
    assert ends == [3, 5, 8, 10] and set(ends) <= {result["points"][-1]["epoch"] for result in cold if result["points"]}
    assert [result["outcome"] for result in warm] == ["running"] * 3 + ["finished"]
    assert [result["progress"] for result in warm] == [0.3, 0.5, 0.8, 1.0]
    assert [result["score"] for result in warm] == [r["points"][-1]["metrics"]["accuracy"] for r in warm]
    assert "curve" not in warm[0]["payload"] and "metrics" not in warm[2]["payload"]
    assert [point for result in warm for point in result["points"]] == cold[-1]["payload"]["curve"]


def test_test_is_read_only_where_that_is_asked_for(config, trial):
    payload = finish(trial(config("cosine", read_test=True)))[-1]["payload"]
    metrics = payload["metrics"]
    assert 0 < metrics["test/accuracy"] <= 1
    # a confirmed recipe is calibrated on val, and what it says of val adds up
    assert metrics["final/temperature"] > 0 and 0 <= metrics["test/calibrated_error"] <= 1
    # val and test have equal class frequencies here
    assert metrics["final/loss_uncalibrated"] == pytest.approx(metrics["final/loss"], rel=1e-4)
    assert metrics["test/accuracy_uncalibrated"] == pytest.approx(metrics["test/accuracy"])
    assert metrics["final/calibrated_loss"] < metrics["final/loss"]
    said = payload["decisions"]
    wrong = sum(
        val - round(recall * val) for val, recall in zip(payload["val_counts"], payload["recalls"], strict=True)
    )
    named = sum(count for *_, count in said["confusions"])
    assert (named == wrong or len(said["confusions"]) == 50) and sum(said["predicted"]) == 440
    given, mistaken = said["accepted"]["0.5"]
    assert 0 <= sum(mistaken) <= sum(given) <= 440
    assert Decisions.from_dict(said).predicted == tuple(said["predicted"]) and json.loads(json.dumps(said)) == said


def test_a_trial_that_diverges_is_a_result(config, trial):
    last = finish(trial(config("wild")))[-1]
    assert (last["outcome"], last["done"]) == ("diverged", True)
    assert "stage 'a', epoch" in last["payload"]["reason"]
    assert "metrics" not in last["payload"]
    assert json.loads(json.dumps(last)) == last


# --- its plan shortened -----------------------------------------------------------------------------------


SHORT = {"shortened": True, "rungs": (0.5, 0.8)}


def test_a_plan_is_tried_shorter_before_it_is_trained(config, trial, make_plan):
    one = trial(config("classifier", **SHORT))
    results = finish(one)
    reports = [result for result in results if result["points"]]
    # 3 + 3 epochs, at half of them 2 + 2 (1.5 is rounded to the even one), at 0.8 again
    short = [point for result in reports[:2] for point in result["points"]]
    assert [(p["stage"], p["epoch"], p["progress"], list(p["metrics"])) for p in short] == [
        ("b", 4, 0.5, ["shortened"]), ("b", 4, 0.8, ["shortened"]),
    ]  # fmt: skip
    plan = make_plan(*PLANS["classifier"])
    alone = trial(config("classifier", plan=plan.shortened(0.5).to_dict()))
    assert short[0]["metrics"]["shortened"] == finish(alone)[-1]["payload"]["metrics"]["final/accuracy"]
    last = results[-1]
    whole = finish(trial(config("classifier")))[-1]
    # what the recipe is worth and what it takes is that of the plan; what the trial took is all of it
    for name in ("metrics", "recalls", "correct", "images", "steps", "first_stage"):
        assert last["payload"][name] == whole["payload"][name], name
    assert (last["payload"]["epochs"], last["payload"]["epochs_trained"]) == (4 + 4 + 6, 4 + 4 + 6)
    assert last["payload"]["curve"] == short + whole["payload"]["curve"]
    assert [point for result in results for point in result["points"]] == last["payload"]["curve"]
    progress = [result["progress"] for result in results]
    assert progress == sorted(progress) and progress[-1] == 1
    assert [result["score"] for result in reports[:2]] == [p["metrics"]["shortened"] for p in short]


def test_the_value_of_a_shortened_plan_is_that_of_the_objective(config, trial):
    parts = ("final/accuracy", "final/smoothed_harmonic_mean")
    values = [
        finish(trial(config("cosine", **SHORT, target=target)))[-1]["payload"]["curve"][0]["metrics"]["shortened"]
        for target in (parts[:1], parts[1:], parts)
    ]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2) and values[0] != values[1]


def test_a_trial_that_is_stopped_while_it_is_short_has_paid_for_that_alone(config, trial):
    one = trial(config("classifier", **SHORT))
    first = one.step()
    while not first["points"]:
        first = one.step()
    payload = first["payload"]
    assert (payload["epochs"], payload["epochs_trained"], payload["images"], payload["steps"]) == (4, 4, 0, 0)
    assert first["outcome"] == "running"


def test_shortened_stages_are_reused(config, trial, tmp_path):
    cold = finish(trial(config("members", **SHORT, store=str(tmp_path))))[-1]
    warm = finish(trial(config("members", **SHORT, store=str(tmp_path))))[-1]
    # at half and at 0.8 of 3 and 2 epochs there are 2 and 1, 2 and 2
    assert cold["payload"]["reused"] == ["a@0.8"]
    names = ["a", "b", "c"]
    assert warm["payload"]["reused"] == [*(f"{n}@0.5" for n in names), *(f"{n}@0.8" for n in names), *names]
    assert warm["payload"]["epochs_trained"] == 0
    assert warm["payload"]["epochs"] == cold["payload"]["epochs"]
    for name in ("metrics", "recalls", "curve"):
        assert warm["payload"][name] == cold["payload"][name]


def test_a_plan_that_cannot_be_shorter_is_trained_once(config, trial, make_plan):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1)).to_dict()
    payload = finish(trial(config("classifier", plan=plan, **SHORT)))[-1]["payload"]
    assert payload["epochs_trained"] == 2
    assert not any("shortened" in point["metrics"] for point in payload["curve"])


def test_a_shortened_plan_that_diverges_ends_the_trial(config, trial):
    last = finish(trial(config("wild", **SHORT)))[-1]
    assert (last["outcome"], last["done"], last["points"]) == ("diverged", True, [])
    assert last["payload"]["reason"].startswith("shortened to 50%: ")


# --- one process, many trials -----------------------------------------------------------------------------


def test_the_third_trial_of_a_process_equals_the_first(config, trial):
    one = trial(config("members"))
    first = finish(one)
    for name in ("cosine", "wild"):
        assert one.reset_config(config(name, seed=5))
        finish(one)
        assert one.reset_config(config("members"))
        again = finish(one)
        assert timeless(again[-1] | {"points": []}) == timeless(first[-1] | {"points": []})
        curves = [[point for result in results for point in result["points"]] for results in (first, again)]
        assert curves[0] == curves[1]


def test_a_store_is_shared_between_trials(config, trial, tmp_path):
    cold = finish(trial(config("members", store=str(tmp_path))))[-1]
    warm = finish(trial(config("members", store=str(tmp_path))))[-1]
    assert warm["payload"]["reused"] == ["a", "b", "c"]
    assert (warm["payload"]["epochs"], warm["payload"]["epochs_trained"]) == (9, 0)
    assert warm["payload"]["seconds_saved"] > 0
    same = {"reused", "epochs_trained", *TIMES}
    first, second = ({k: v for k, v in one["payload"].items() if k not in same} for one in (cold, warm))
    assert first == second
    other_seed = finish(trial(config("members", store=str(tmp_path), seed=2)))[-1]
    assert other_seed["payload"]["reused"] == []


def test_a_spec_is_all_that_a_pipeline_needs(config):
    spec = json.loads(config("classifier")["spec"])
    pipeline = pipeline_of(TrialSpec(**spec))
    assert (pipeline.context.seed, pipeline.data.split_seed, pipeline.data.imbalance) == (1, 1, 50.0)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_trial_refuses_data_that_are_not_those_of_its_search(config, trial):
    mark = cached_data("digits-lt", None, 50.0, 1).fingerprint
    assert finish(trial(config("classifier", fingerprint=mark)))[-1]["outcome"] == "finished"
    changed = "digits-lt: images or labels have changed since the search was started"
    refused = trial(config("classifier", fingerprint="another"))
    told = refused.step()
    assert (told["outcome"], told["points"], told["payload"]) == ("failed", [], {})
    assert told["failure"].startswith(f"DataError: {changed}")
    with pytest.raises(TrialFailed, match=changed):
        refused.step()


def test_results_are_weighed_as_asked_and_training_stays_the_same(config, trial, tmp_path):
    cost = tuple(tuple(float(i != j) for j in range(10)) for i in range(10))
    weighed = Deployment("train", cost).to_dict()
    plain = finish(trial(config("cosine", store=str(tmp_path), calibrate=True)))[-1]["payload"]
    asked = finish(trial(config("cosine", store=str(tmp_path), deployment=weighed, read_test=True)))[-1]["payload"]
    assert asked["reused"] == ["a"]  # what is weighed is not part of a stage's key
    counts = np.array(asked["counts"])
    expected = float(counts @ np.array(asked["recalls"]) / counts.sum())
    assert asked["metrics"]["final/prior_accuracy"] == pytest.approx(expected)
    # cost 1 for every mistake
    assert asked["metrics"]["final/expected_cost"] == pytest.approx(1 - expected)
    assert {"test/prior_accuracy", "test/expected_cost"} <= set(asked["metrics"])
    more = {"final/prior_accuracy", "final/expected_cost"}
    assert {n: v for n, v in asked["metrics"].items() if n in plain["metrics"]} == plain["metrics"]
    assert {n for n in asked["metrics"] if n.startswith("final/")} == set(plain["metrics"]) | more


def test_on_images_that_are_not_balanced_the_share_that_is_right_is_told(config, trial):
    realistic = finish(trial(config("cosine", data="digits-lt?val=realistic")))[-1]["payload"]
    held, recalls = np.array(realistic["val_counts"]), np.array(realistic["recalls"])
    assert realistic["metrics"]["final/image_accuracy"] == pytest.approx(float(held @ recalls / held.sum()))
    assert realistic["metrics"]["final/accuracy"] == pytest.approx(float(recalls.mean()))
    # 44, 28, 18, 12, 7, 5 and three more images or fewer: the last four classes have fewer than five
    assert realistic["metrics"]["final/lowest_recall"] == pytest.approx(recalls[:6].min())
    balanced = finish(trial(config("cosine")))[-1]["payload"]["metrics"]
    assert "final/image_accuracy" not in balanced


def test_a_trial_asks_for_what_its_configuration_says():
    ask = Trial.default_resource_request
    assert ask({"cpus": 2, "gpus": 0.25}).bundles == [{"CPU": 2, "GPU": 0.25}]
    assert ask({"cpus": 1, "gpus": 0.0}).bundles == ask({}).bundles == [{"CPU": 1}]


def test_folders_of_tricks_that_lie_in_a_module_that_was_sent(tmp_path, monkeypatch):
    (tmp_path / "brought_along" / "0").mkdir(parents=True)
    (tmp_path / "brought_along" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert folder_of("brought_along:0") == str(tmp_path / "brought_along" / "0")
    for place in ("/a/b", "C:/a", "my tricks", "a:b/c"):
        assert folder_of(place) == place


def test_splits_are_kept_while_they_fit():
    """A process trains block after block: with every split that it has seen, memory would grow without a bound."""
    digits = [("digits-lt", None, 50.0, seed) for seed in range(3)]
    one = held_bytes(cached_data(*digits[0]))
    splits = Splits(most=2 * one + one // 2)
    first, second = splits.get(*digits[0]), splits.get(*digits[1])
    assert splits.get(*digits[0]) is first
    splits.get(*digits[2])  # in the place of the one that was used longest ago
    assert splits.get(*digits[0]) is first
    assert splits.get(*digits[1]) is not second
    small = Splits(most=1)
    assert small.get(*digits[0]) is small.get(*digits[0])
