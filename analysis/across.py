"""`python -m analysis.across`: the verdicts of several searches side by side."""

import sys

from analysis.conflicts.other_searches import main

if __name__ == "__main__":
    sys.exit(main())
