"""A rebuild beside the live tables: the same projection in a world of its own (docs/adr/0010).

space    a schema with the new tables and with bookkeeping of the same names as the daemon's own
replay   the ordinary runner, at work in a space
builder  makes or continues the space of a rebuild, replays into it, and finishes
finish   the one transaction in which the live tables become what the replay gave
process  the process that a builder runs in
"""
