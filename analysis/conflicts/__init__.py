"""Which tricks conflict: directions, interactions and verdicts of pairs, from the design arm. Tables in, tables out.

- `cells`: the design arm as cells × blocks, checked.
- `contrasts`: differences within blocks, their moderated variances.
- `verdicts`: what is shown of each direction and each pair, with error control.
- `reasons`: the same in words.
- `table`: the conflict table, `pairwise`; `other_metrics`: the same by further metrics.
- `looks`: the table of a design that grew after it was looked at; `robustness`: other learning rates and lengths.
- `search_verdicts`: all of this for one search; `other_searches`: the verdicts of several.

How often it is wrong, and what it finds, in simulated searches: `docs/conflict_truth.md`.
"""

from analysis.conflicts.looks import at_looks, further_blocks, open_directions
from analysis.conflicts.other_metrics import OtherMetrics, other_metric_tables
from analysis.conflicts.search_verdicts import verdict_table
from analysis.conflicts.table import effects, pairwise

__all__ = [
    "OtherMetrics",
    "at_looks",
    "effects",
    "further_blocks",
    "open_directions",
    "other_metric_tables",
    "pairwise",
    "verdict_table",
]
