"""`python -m trainables.stage_store`: lists, verifies and cleans the store of finished stages."""

import sys

from trainables.pipeline.store import main

if __name__ == "__main__":
    sys.exit(main())
