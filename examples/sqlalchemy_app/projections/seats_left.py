"""How many seats of each concert are left: what the web page shows."""

from projectiond import Connection, Event, Projection, handles


class SeatsLeft(Projection):
    """A row for each concert."""

    tables = ("seats_left",)
    schema = """
        CREATE TABLE IF NOT EXISTS seats_left (
            concert_id UUID PRIMARY KEY,
            seats INT NOT NULL
        );
    """

    @handles("ConcertOpened")
    def opened(self, event: Event, db: Connection) -> None:
        """Begin with all of them."""
        db.execute(
            "INSERT INTO seats_left (concert_id, seats) VALUES (%s, %s)", (event.aggregate_id, event.data["seats"])
        )

    @handles("TicketSold")
    def sold(self, event: Event, db: Connection) -> None:
        """Take those off that were sold."""
        db.execute(
            "UPDATE seats_left SET seats = seats - %s WHERE concert_id = %s", (event.data["seats"], event.aggregate_id)
        )
