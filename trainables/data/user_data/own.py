"""Own data: `folder:PATH`, `csv:FILE`, `npz:FILE`. Class counts come from the data.

- `folder:PATH`: one folder of images per class, named as the class; or `train/`, and `val/` and `test/` where there
  are any, each with a folder per class, or all of them in every class folder. Folders inside a class and links are
  followed; hidden files and files that are not images are left out and reported. How files become pixels is stated in
  `trainables.data.images.decoding`.
- `csv:FILE`: `path,label` or `path,label,split` a line, separated by commas, semicolons or tabs; or other columns in
  any order below a header that has these names. Paths are relative to the file, absolute, or begin with `~/`. Labels
  are whole numbers, or names; the split is `train`, `val` or `test`.
- `npz:FILE`: arrays `x_train`, `y_train`, and `x_val`, `y_val`, `x_test`, `y_test` where there are any; `x`, `y` for
  train; also `train_images`, `train_labels` and the like. Images are uint8, (N, H, W, c), (N, c, H, W) or (N, H, W)
  with c = 1 or 3; labels are whole numbers, or names. `classes` may name the classes, label 0 first.

Labels that are numbers other than 0 to C − 1 name their classes.

PATH and FILE are relative to `--data-root` where that is given, to the working directory else. Where no val or no
test is given it is cut from the training images, see `trainables.data.splits`. Without `--imbalance` the data are
taken as they are; with it, a longer tail is cut.

Options follow a question mark: `folder:photos?size=64&broken=skip` (in a shell, in quotes).

| option | default | |
|---|---|---|
| `size` | as they are | side in pixels: shorter side resized to it, centre cut out; files only |
| `broken` | `refuse` | `skip` leaves unreadable files out, and names them; all files are decoded before training |
| `val`, `test` | 50 | images of each class that are cut, a fifth of the class at most |
| `train` | long-tailed | `balanced`: as many images of every class, in all as many as the long tail has |
| `pad` | an eighth of the side | largest random shift in training, pixels |
| `flip` | colour only | `yes` or `no`: mirror images in training |
| `crop` | `shift` | `resized`: training takes crops of random size and shape instead of shifts |
| `feed` | `auto` | `resident`: all in memory; `streamed`: decoded as needed; `auto`: streamed where above the limit |
| `background` | white | colour under transparent pixels: a name, or #rrggbb |
| `interpolation` | `bilinear` | or `bicubic`: how files are resized |
| `orientation` | `exif` | `ignore` leaves images as they lie in the file, whatever their EXIF data say |
| `resident_limit` | 8 | largest set in memory, 10⁹ bytes |
| `workers` | one per core, ≤ 8 | processes that decode what is streamed; 0 decodes in the training process |
"""

from __future__ import annotations

from pathlib import Path

from trainables.data.catalogue import DataError, Name, Standard
from trainables.data.images.decoding import header
from trainables.data.long_tail import LongTailed
from trainables.data.splits import HELD_OUT
from trainables.data.user_data import source as given
from trainables.data.user_data.array_files import read_arrays
from trainables.data.user_data.folders import folder
from trainables.data.user_data.source import Options, Source, long_tailed
from trainables.data.user_data.table_files import read_table

OPTIONS = given.OPTIONS


def standard(name: str, root: str | None = None) -> Standard:
    """A schedule from the number of training images N and their shorter side s.

    10⁷ / N epochs, from 30 to 200 (CIFAR-LT has 200, 90 is usual for the 116,000 images of ImageNet-LT);
    learning rate 0.1 per 128 images of a batch; a small network where images are small or few.

    Raises:
        DataError: The data are absent or not as described above.
    """
    parsed = Name.parse(name)
    source = index(name, root)
    images = len(source.labels["train"])
    side = min(source.array_shape[1:])
    if source.files:
        options = Options.of(parsed)
        side = options.size or _side(source, options)
    epochs = max(30, min(200, 10 * round(1e6 / images)))
    batch_size = 64 if images < 5000 else 128
    small = side <= 16 or images < 2000
    return Standard(
        epochs=epochs,
        lr=0.1 * batch_size / 128,
        weight_decay=5e-4 if small else 2e-4,
        batch_size=batch_size,
        schedule="cosine",
        model="resnet8" if small else "resnet32",
        imbalance=None,
        eval_every=epochs // 20 or 1,
        # of a val of 50 per class, accuracy has a standard error of about ½ √(1 / 50 C)
        margin=0.01 if len(source.class_names) >= 50 else 0.02,
        final_epochs=epochs,
        sd=max(0.005, 0.5 / (HELD_OUT * len(source.class_names)) ** 0.5),
    )


def _side(source: Source, options: Options) -> int:
    """The shorter side of the first training image that can be read."""
    for file in source.files["train"]:
        found = header(file, orientation=options.orientation)
        if not found.problem:
            return min(found.size)
    raise DataError(f"{source.where}: none of the {len(source.files['train'])} training images can be read")


def load(
    name: str, *, root: str | None = None, imbalance: float | None = None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """Own data, divided; see `trainables.data.load` and above.

    Raises:
        DataError: The data are absent or not as described above.
    """
    return long_tailed(
        name, index(name, root), Options.of(Name.parse(name)),
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val,
    )  # fmt: skip


def index(name: str, root: str | None = None) -> Source:
    """Reads labels and file names; no pixel is read."""
    parsed = Name.parse(name)
    place = parsed.place(root)
    if not place.exists():
        here = "" if place.is_absolute() else f" under {Path.cwd()}; paths may be absolute, or relative to --data-root"
        raise DataError(f"{name}: there is no {place}{here}")
    if parsed.kind == "folder":
        if not place.is_dir():
            raise DataError(f"{name}: {place} is not a folder; csv: and npz: read files")
        return folder(place)
    if not place.is_file():
        raise DataError(f"{name}: {place} is not a file; folder: reads folders")
    if parsed.kind == "npz" and "size" in parsed.options:
        raise DataError(f"{name}: option size is for image files; arrays have their size")
    return read_table(place) if parsed.kind == "csv" else read_arrays(place)
