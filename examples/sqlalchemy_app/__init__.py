"""A box office: an application that keeps its own tables and its events in one transaction, with SQLAlchemy.

    models.py            the application's base class; its own table, and event_store among its models
    concert.py           what the events of a concert mean: no database in it
    box_office.py        opens concerts and sells tickets
    box_office_async.py  the same with asyncio
    projections/         what projectiond makes of the events: the seats left, for the web page

To see it work, with a database that DATABASE_URL names::

    projectiond init
    python -m examples.sqlalchemy_app
    PROJECTIOND_PROJECTIONS=examples/sqlalchemy_app/projections projectiond catchup
    psql "$DATABASE_URL" -c 'TABLE seats_left'
"""
