"""The demo: a small shop whose orders arrive live, and a daemon that keeps three read models of them.

    projections/   the sample projections (a link to the project's own)
    shop.py        what happens in the shop: orders, one step after the other
    stream.py      writes it into the event store, as an application would, and times how soon it is to be read
    daemon.py      the daemon as a process that ends with the demo, however the demo ends
    view.py        what the read models say, on a terminal or as lines
    show.py        all of it together

Called by ``projectiond demo``.  It uses the embedded PostgreSQL of the current directory, the same as every other
command that is run there without a database_url, so that ``projectiond pause order_summary`` in a second terminal
acts on it.
"""
