"""Results under two groupings -> how much the number to quote depends on which slices count as look-alikes."""

from __future__ import annotations

from ctscan.classes import CLASSES
from ctscan.results.figures import by_fold, decimal, share
from ctscan.results.findings import SUBTYPE
from ctscan.results.summary import Results


def stricter(results: Results) -> str:
    """The same recipe where less alike slices are kept together too; empty where that was not measured."""
    grouped, strict = results.grouped, results.stricter
    if grouped is None or strict is None:
        return ""
    n, largest = strict["n"], max(fold["n"] for fold in strict["folds"])
    before, after = (share(entry["measures"]["balanced_accuracy"]) for entry in (grouped, strict))
    error = decimal(strict["measures"]["ece"])
    each = by_fold(strict["folds"])
    worst = min(CLASSES, key=lambda c: strict["measures"][f"sensitivity.{c.key}"]["value"])
    return (
        "Where less alike slices are kept together too (two are linked from a correlation of "
        f"{strict['threshold']:.2f} on instead of {grouped['threshold']:.2f}), there are {strict['groups']} groups "
        f"instead of {grouped['groups']}, and balanced accuracy is {after} instead of {before}; in the parts {each} "
        f"%. The largest part holds {largest} of {n} slices, so its network learned from {n - largest}. Adenocarcinoma "
        f"against squamous cell carcinoma: AUROC {decimal(strict['measures'][SUBTYPE])}. Calibration error: {error}. "
        f"Lowest sensitivity: {worst.title}, {share(strict['measures'][f'sensitivity.{worst.key}'])}. With groups this "
        "large and few the intervals are rough."
    )
