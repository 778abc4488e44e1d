"""Measurements of projectiond on this machine, as ratios within one run: ``python -m bench``.

Run by ``make bench``; no part of the package, and no test.  docs/performance.md says what each figure means.
"""
