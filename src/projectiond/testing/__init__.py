"""Testing projections: given these events, the tables have these rows.

The fixture ``projection_tester`` of the pytest plugin makes a :class:`Tester` for a projection, in a throw-away
database. Events are applied by what the daemon runs, not by an imitation of it, and what they give is proven to be the
same after crashes and however they are cut into batches. See docs/testing-a-projection.md.
"""

from projectiond.testing.proof import UnsafeProjectionError
from projectiond.testing.tester import MakeTester, Tester

__all__ = ["MakeTester", "Tester", "UnsafeProjectionError"]
