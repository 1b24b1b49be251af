"""The command: `python run_search.py --space spaces/full_combo.py`, the same as `longtail-tune search`."""

import sys
from functools import partial

from search.__main__ import main as search

main = partial(search, prog="run_search.py")

if __name__ == "__main__":
    sys.exit(main())
