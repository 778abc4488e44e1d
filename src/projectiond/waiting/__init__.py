"""Read your writes: wait until a projection has everything up to a sequence number."""

from projectiond.waiting.wait import wait_for, wait_for_async

__all__ = ["wait_for", "wait_for_async"]
