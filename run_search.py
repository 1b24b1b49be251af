"""The command: `python run_search.py --space spaces/full_combo.py`, the same as `longtail-tune search`."""

import sys

from search.__main__ import main

if __name__ == "__main__":
    sys.exit(main(prog="run_search.py"))
