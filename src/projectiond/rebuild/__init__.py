"""A rebuild beside the live tables: the same projection in a world of its own.

The reasons are in docs/adr/0009-rebuild-beside.md.

space    a schema with the new tables and with bookkeeping of the same names as the daemon's own
replay   the ordinary runner, at work in a space
builder  makes or continues the space of a rebuild, replays into it, and finishes
finish   the one transaction in which the live tables become what the replay gave
process  the process that a builder runs in

What it does with the tables, which it is given as pairs of a live and a built one:

tables     the pairs, and how writers are held off
catalogue  a table as the catalogue has it
shape      merge or swap?
matching   the rows of both, matched
compare    what differs, in numbers and samples
merge      the live tables take over the rows
swap       the tables change places; exchange: what goes along; carry, rights, triggers: what is done again
dependents what stands in the way
retired    the old tables: the way back, and their end

And what commands make of the same replay (they share aside):

verification     the live tables held against a replay
materialization  a read model as it was, in a schema of the user's
"""
