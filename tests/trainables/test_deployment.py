"""Deployment priors and costs, by hand, and files with mistakes."""

import json
from math import nan
from pathlib import Path

import pytest

from trainables.deployment import Deployment, DeploymentError, read

NAMES = ("ant", "bee", "cat")


def write(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def test_a_prior_weighs_recalls() -> None:
    recalls, counts = [1.0, 0.5, 0.25], [70, 20, 10]

    def accuracy(prior) -> float:
        return Deployment(prior).measure(recalls, [], [], counts)["prior_accuracy"]

    assert accuracy("uniform") == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert accuracy("train") == pytest.approx(0.7 + 0.2 * 0.5 + 0.1 * 0.25)
    assert accuracy((0.0, 1.0, 1.0)) == pytest.approx((0.5 + 0.25) / 2)


def test_a_class_that_was_not_measured_has_no_weight() -> None:
    assert Deployment("uniform").measure([1.0, nan, 0.5], [], [], [1, 1, 1]) == {"prior_accuracy": 0.75}
    # unknown, not 0
    assert Deployment((0.0, 1.0, 0.0)).measure([1.0, nan, 0.5], [], [], [1, 1, 1]) == {}


def test_expected_cost_by_hand() -> None:
    # class 0: right, said 1 (cost 2); class 1: said 0 twice (cost 10), right once; class 2: no image
    cost = ((0.0, 2.0, 3.0), (10.0, 0.0, 1.0), (4.0, 4.0, 0.0))
    labels, predicted = [0, 0, 1, 1, 1], [0, 1, 0, 0, 1]
    recalls = [1 / 2, 1 / 3, nan]
    found = Deployment(None, cost).measure(recalls, predicted, labels, [9, 9, 9])
    assert found == pytest.approx({"expected_cost": (2 / 2 + 20 / 3) / 2})
    found = Deployment("train", cost).measure(recalls, predicted, labels, [30, 10, 5])
    assert found == pytest.approx({"prior_accuracy": (3 * 1 / 2 + 1 / 3) / 4, "expected_cost": (3 * 1 + 20 / 3) / 4})
    # what costs 1 for every mistake is what accuracy lacks to 1
    mistakes = tuple(tuple(float(i != j) for j in range(3)) for i in range(3))
    found = Deployment("uniform", mistakes).measure(recalls, predicted, labels, [1, 1, 1])
    assert found["expected_cost"] == pytest.approx(1 - found["prior_accuracy"])


def test_it_passes_through_json() -> None:
    for one in (Deployment(), Deployment("train"), Deployment((1.0, 2.0), ((0.0, 1.0), (1.0, 0.0)))):
        assert Deployment.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert Deployment.from_dict(None) == Deployment() and not Deployment() and Deployment("train")


def test_priors_are_read_by_name_or_in_order(tmp_path: Path) -> None:
    named = write(tmp_path / "named.csv", "# shares", "cat,1", "ant,6", "bee,3")
    plain = write(tmp_path / "plain.csv", "6", "3", "1")
    assert read(named, None, NAMES) == read(plain, None, NAMES) == Deployment((6.0, 3.0, 1.0))
    assert read("train", None, NAMES) == Deployment("train") and read(None, None, NAMES) == Deployment()


def test_costs_are_read_with_and_without_names(tmp_path: Path) -> None:
    expected = ((0.0, 1.0, 2.0), (3.0, 0.0, 4.0), (5.0, 6.0, 0.0))
    plain = write(tmp_path / "a.csv", "0,1,2", "3,0,4", "5,6,0")
    header = write(tmp_path / "b.csv", "ant,bee,cat", "0,1,2", "3,0,4", "5,6,0")
    both = write(tmp_path / "c.csv", ",cat,ant,bee", "cat,0,5,6", "bee,4,3,0", "ant,2,0,1")
    for file in (plain, header, both):
        assert read(None, file, NAMES).cost == expected, file
    # numbered classes: costs that are the classes' numbers are no names
    for lines in (["0,1", "1,0"], ["0,1", "0,1", "1,0"], [",0,1", "0,0,1", "1,1,0"]):
        assert read(None, write(tmp_path / "d.csv", *lines), ("0", "1")).cost == ((0.0, 1.0), (1.0, 0.0)), lines


@pytest.mark.parametrize(
    "lines, message",
    [
        ([""], "the file is empty"),
        (["1", "2"], "has 2 weights, and the data 3 classes"),
        (["ant,1", "bee,2"], "no weight for 1 classes: cat; give each one"),
        (["ant,1", "bee,2", "cow,3"], "line 3: no class 'cow' in the data; classes are ant, bee, cat"),
        (["ant,1", "ant,2", "cat,3"], "line 2: class 'ant' stands twice"),
        (["ant,1", "bee,-2", "cat,3"], "line 2: a weight must be at least 0, got -2"),
        (["ant,1", "bee,x", "cat,3"], "line 2: expected a number, got 'x'"),
        (["ant,1,2", "bee,2,2", "cat,3,2"], "line 1: expected a class and its weight, got 'ant,1,2'"),
        (["0", "0", "0"], "all weights are 0; at least one class must occur"),
    ],
)
def test_bad_priors(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DeploymentError, match="--prior ") as error:
        read(write(tmp_path / "prior.csv", *lines), None, NAMES)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["0,1", "1,0"], "has 2 rows of costs, and the data 3 classes"),
        (["0,1,1", "1,0", "1,1,0"], "line 2: has 2 costs, and the data 3 classes"),
        (["0,1,1", "1,0,nan", "1,1,0"], "line 2: expected a number, got 'nan'"),
        (["ant,bee,cat", "0,1,1", "1,0,1"], "has 2 rows of costs"),
    ],
)
def test_bad_costs(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DeploymentError, match="--cost ") as error:
        read(None, write(tmp_path / "cost.csv", *lines), NAMES)
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"cannot read the file \(No such file.* \(or one of uniform, train\)"):
        read("trian", None, NAMES)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeploymentError, match="it is not CSV text in UTF-8"):
        read(None, str(tmp_path / "binary"), NAMES)
    with pytest.raises(DeploymentError, match="a matrix is taken up to 1000"):
        read(None, write(tmp_path / "c.csv", "0"), [str(label) for label in range(1001)])
