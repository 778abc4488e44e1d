"""Faults on purpose, at random and repeatable, around a running projectiond: ``python -m faults``.

Run by ``make faults``; no part of the package.  docs/faults.md says what each kind is, and how long projections may
take to be up to date again after it.
"""
