"""What all commands share: errors in one sentence, exit codes, sizes."""

import argparse

import pytest

from analysis import command_line
from analysis.command_line import Parser, UsageError, byte_count


@pytest.fixture
def parser() -> Parser:
    it = Parser("demo")
    it.add_argument("--size", type=byte_count)
    it.add_argument("--kind", choices=("round", "square"))
    return it


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "many"], "--size must be a size like 500MB or 20GB, got 'many'"),
        (["--sise", "3"], "there is no option --sise: did you mean --size?"),
        (["--zzz"], "there is no option --zzz: --help lists the options"),
        (["--kind", "rund"], "--kind must be one of round, square, got 'rund': did you mean 'round'?"),
        (["--size"], "argument --size: expected one argument"),
    ],
)
def test_a_bad_command_line_is_one_sentence_and_2(parser, capsys, words, sentence):
    assert command_line.run(parser, words, lambda options: 0) == 2
    assert capsys.readouterr().err == f"demo: error: {sentence}\n"


def raising(error: BaseException):
    def body(options: argparse.Namespace) -> int:
        raise error

    return body


def test_refusals_are_told_and_bugs_are_raised(parser, capsys):
    assert command_line.run(parser, [], raising(UsageError("not so"))) == 2
    assert command_line.run(parser, [], raising(OSError(13, "Permission denied", "a file"))) == 2
    assert command_line.run(parser, [], raising(KeyboardInterrupt())) == 130
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "demo: error: not so", "demo: error: [Errno 13] Permission denied: 'a file'", "", "demo: interrupted"
    ]  # fmt: skip
    for bug in (ValueError("a bug"), ZeroDivisionError("another")):
        with pytest.raises(type(bug), match=str(bug)):
            command_line.run(parser, [], raising(bug))
    with pytest.raises(OSError, match="unexpected"):
        command_line.run(parser, [], raising(OSError("unexpected")), expected=())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--out .*/a/b cannot be written: No such file or directory"):
        command_line.write(f"{tmp_path}/a/b", "text")


@pytest.mark.parametrize("text", ["", "MB", "-1", "5 apples", "nan"])
def test_sizes_are_checked(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a size like 500MB"):
        byte_count(text)
