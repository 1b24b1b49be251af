"""`python -m trainables.embed`: what a pretrained network says of every image, as data to train classifiers on.

    python -m trainables.embed --data folder:photos --model timm:resnet50.a1_in1k --out photos.npz
    python run_search.py --data features:photos.npz ...

The file has the data's own splits: a val or test that was given stays apart, and one that is cut from the training
images is cut when the features are loaded (test: here, once). Where a data set is cut to a long tail by definition,
as CIFAR is, the whole balanced pool is embedded and `--imbalance` of the search cuts the tail; `--imbalance` here cuts
it for good. The first view of an image is the image as it is; further ones are shifted, cropped and mirrored as in the
data set's own training.

Finished blocks are kept in the folder `FILE.parts` until the file is written, so that the same command continues after
an interruption.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m trainables.embed") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Compute the features of a data set with a pretrained network.")
    it.add_argument("--data", metavar="NAME", required=True, help="data set, as for run_search.py")
    it.add_argument("--data-root", metavar="DIR", help="folder that holds the data (default: none, for bundled data)")
    it.add_argument(
        "--model", metavar="NAME", required=True,
        help="pretrained network: timm:NAME, timm:NAME?pretrained=FILE, resnet50?pretrained=FILE, module:function",
    )  # fmt: skip
    it.add_argument("--out", metavar="FILE", type=Path, required=True, help="file to write, .npz or .safetensors")
    it.add_argument(
        "--imbalance", metavar="X", type=float,
        help="cut a long tail before the features are computed (default: the whole pool, from which a search cuts it)",
    )  # fmt: skip
    it.add_argument(
        "--views", metavar="V", type=int, default=1, help="views of each training image (default: %(default)s)"
    )
    it.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the backbone (default: %(default)s)"
    )
    it.add_argument("--batch-size", metavar="B", type=int, default=64, help="images at a time (default: %(default)s)")
    it.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device that computes (default: %(default)s)"
    )
    it.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: as many as torch chooses)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.embed") -> int:
    """Runs the command; 0 done, 2 cannot be done as asked, 130 interrupted."""
    return command_line.run(parser(prog), arguments, "trainables.embedding:run")


if __name__ == "__main__":
    sys.exit(main())
