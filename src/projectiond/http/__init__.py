"""HTTP, served by the supervisor: probes, metrics, where every projection stands, read your writes, and the dashboard.

It runs beside the supervisor and can neither stop nor stall it: a thread with an event loop answers, a second one
reads the database, a third waits for positions, and none of them holds anything that the supervisor waits for::

    supervisor ──publishes five times a second──▶ crew ──▶ vigil ──▶ health ──▶ /healthz
       (memory that workers share, copied)          │
                                                    ├──▶ metrics ──▶ /metrics
    database ──one reading a second, if asked──▶ readings ──▶ /readyz, /api/v1/projections
             ──one poll for all who wait──────▶ waiters ──▶ …/wait

The dashboard takes from both, see ``dashboard``; it alone changes something, for who has the token.

What concerns this daemon's workers comes from memory, so it is known also while the database is away; what only the
database knows comes from one shared reading, and is shown with its age.
"""
