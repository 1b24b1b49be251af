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


NUMBERED = tuple(sorted(map(str, range(12))))
"""As folders are sorted: 0, 1, 10, 11, 2, …"""


def test_costs_are_read_by_name_whatever_their_order(tmp_path: Path) -> None:
    """cost[c][j] is 100 c + j of the names, in every order of rows and columns."""
    expected = tuple(tuple(float(100 * int(c) + int(j)) for j in NUMBERED) for c in NUMBERED)
    counted, back = [str(c) for c in range(12)], list(reversed(NUMBERED))
    for rows in (counted, back, list(NUMBERED)):
        for columns in (counted, back, list(NUMBERED)):
            cells = [",".join(str(100 * int(c) + int(j)) for j in columns) for c in rows]
            for corner in (["", *columns], columns, ["true \\ said", *columns]):
                lines = [",".join(corner), *(f"{c},{row}" for c, row in zip(rows, cells, strict=True))]
                assert read(None, write(tmp_path / "cost.csv", *lines), NUMBERED).cost == expected
            lines = [",".join(columns), *cells]
            if rows == columns == list(NUMBERED):
                assert read(None, write(tmp_path / "cost.csv", *lines), NUMBERED).cost == expected
            elif columns != list(NUMBERED):
                # whose costs a row has is not said: in the header's order, or in that of the classes?
                with pytest.raises(
                    DeploymentError, match=r"0, 1, 10, 11, 2, ….*begin each row of costs with its class"
                ):
                    read(None, write(tmp_path / "cost.csv", *lines), NUMBERED)
            if rows != list(NUMBERED):
                lines = [f"{c},{row}" for c, row in zip(rows, cells, strict=True)]
                with pytest.raises(DeploymentError, match="put a first line with their names above"):
                    read(None, write(tmp_path / "cost.csv", *lines), NUMBERED)


def test_what_has_no_names_is_not_guessed(tmp_path: Path) -> None:
    plain = write(tmp_path / "prior.csv", *map(str, range(1, 13)))
    with pytest.raises(DeploymentError, match="the data's classes are in the order 0, 1, 10, 11, 2, …"):
        read(plain, None, NUMBERED)
    with pytest.raises(DeploymentError, match="name the classes in the file"):
        read(None, write(tmp_path / "cost.csv", *[",".join("0" * 12)] * 12), NUMBERED)
    named = write(tmp_path / "prior.csv", "class;weight", *(f"{c};{c + 1}" for c in range(12)))
    assert read(named, None, NUMBERED).prior == tuple(float(int(c) + 1) for c in NUMBERED)
    assert read(plain, None, tuple(map(str, range(12)))).prior == tuple(map(float, range(1, 13)))
    assert read(plain, None, tuple(reversed(NUMBERED))).prior is not None  # an order of the data's own


def test_tables_of_other_programs(tmp_path: Path) -> None:
    file = tmp_path / "prior.csv"
    for text in (
        "\ufeffant;6\r\nbee;3\r\ncat;1\r\n",
        "# a, b\nant\t6\nbee\t3\n\ncat\t1\n\t\n",
        '"ant", 6\n "bee","3"\ncat,1',
    ):
        file.write_bytes(text.encode())
        assert read(str(file), None, NAMES) == Deployment((6.0, 3.0, 1.0)), text
    hashed = ("#1", "#2")
    with pytest.raises(
        DeploymentError, match="no weight for 1 classes: #1; give each one; put a name that begins with #"
    ):
        read(write(file, "#1,3", '"#2",4'), None, hashed)
    assert read(write(file, '"#1",3', '"#2",4'), None, hashed).prior == (3.0, 4.0)


@pytest.mark.parametrize(
    "fields",
    [
        [], "train", {"prior": "train"}, {"prior": 3, "cost": None}, {"prior": [1, None], "cost": None},
        {"prior": [0, 0], "cost": None}, {"prior": [1, -1], "cost": None}, {"prior": [1, nan], "cost": None},
        {"prior": [10**400, 1], "cost": None}, {"prior": "trian", "cost": None}, {"prior": None, "cost": [[1, 2]]},
        {"prior": None, "cost": [[True]]}, {"prior": None, "cost": [["1"]]}, {"prior": {}, "cost": None},
        {"prior": None, "cost": "1"}, {"prior": None, "cost": None, "more": 1},
    ],
)  # fmt: skip
def test_a_deployment_that_was_changed_by_hand(fields) -> None:
    if fields == []:
        assert Deployment.from_dict(fields) == Deployment()
        return
    with pytest.raises(DeploymentError, match="a deployment"):
        Deployment.from_dict(fields)


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
        (["ant,bee,cta", "0,1,1", "1,0,1", "1,1,0"], "line 1: no class 'cta' in the data; did you mean 'cat'?"),
        (["ant,bee,bee", "0,1,1", "1,0,1", "1,1,0"], "line 1: class 'bee' stands twice"),
        (["ant,bee", "0,1,1", "1,0,1", "1,1,0"], "line 1: lacks 1 classes: cat"),
        (["ant,0,1,1", "ant,1,0,1", "cat,1,1,0"], "first column: class 'ant' stands twice"),
        (["0,1,1", "1,0,1e400", "1,1,0"], "line 2: expected a number, got '1e400'; at most 1e+100 is taken"),
        (["0,1,1", f"1,0,1{'0' * 400}", "1,1,0"], "…; at most 1e+100 is taken"),
        (["0;1;1", "1;0;0,5", "1;1;0"], "line 2: expected a number, got '0,5'; write decimals with a point"),
        (['"0,1,1', "1,0,1", "1,1,0"], "cannot read the file (line 3: unexpected end of data)"),
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
    with pytest.raises(DeploymentError, match="it is text in UTF-16; save it as CSV in UTF-8"):
        read(None, str(tmp_path / "binary"), NAMES)
    with pytest.raises(DeploymentError, match="a matrix is taken up to 1000"):
        read(None, write(tmp_path / "c.csv", "0"), [str(label) for label in range(1001)])
