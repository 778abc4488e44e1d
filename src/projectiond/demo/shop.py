"""The shop: which events happen next, as order_summary.py describes them.

Decides only; nothing here knows a database.  The same seed gives the same shop, apart from the ids.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PRODUCTS: Final = (
    ("TEA-250", 495),
    ("TEA-1000", 1690),
    ("COFFEE-500", 1150),
    ("MUG-BLUE", 900),
    ("MUG-WHITE", 850),
    ("KETTLE", 4900),
    ("FILTER-100", 320),
    ("SCALE", 2750),
    ("GRINDER", 12900),
    ("HONEY", 680),
)
FIRST_NAMES: Final = ("Ann", "Bo", "Chloé", "Diego", "Elif", "Femi", "Grace", "Hana", "Ivo", "Jörg", "Kofi", "Łucja")
LAST_NAMES: Final = ("Lee", "Okafor", "Novák", "García", "Kaya", "Schmidt", "Rossi", "Tanaka", "Dubois", "Andersson")
CARRIERS: Final = ("DHL", "UPS", "GLS", "PostNord")
REASONS: Final = ("changed my mind", "found it cheaper", "delivery takes too long", "ordered twice")

# How many of the orders are a guest's; how many steps cancel an order or take an item out of it.
GUESTS_SHARE: Final = 0.2
CANCELLED_SHARE: Final = 0.05
CHANGED_SHARE: Final = 0.1

# So many orders wait for their next step at a time, more or less; then some are finished before new ones come.
OPEN_ORDERS: Final = 12


@dataclass(frozen=True, slots=True)
class Fact:
    """One event of one order."""

    event_type: str
    data: Mapping[str, Any]


@dataclass(slots=True)
class Order:
    """An order that is not finished."""

    order_id: uuid.UUID = field(default_factory=uuid.uuid4)
    version: int = 0
    items: dict[str, int] = field(default_factory=dict)
    is_paid: bool = False

    @property
    def total_cents(self) -> int:
        """What its items cost."""
        prices = dict(PRODUCTS)
        return sum(prices[sku] * quantity for sku, quantity in self.items.items())


class Shop:
    """Has one thing happen after the other."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - invents customers, guards no secret
        self._open: list[Order] = []

    def next_step(self) -> tuple[Order, Sequence[Fact]]:
        """Give the events that happen together next; the order's version is still that before them."""
        chance = self._random.random()
        if not self._open or chance < 1 - len(self._open) / (2 * OPEN_ORDERS):
            return self._place()
        order = self._random.choice(self._open)
        if order.is_paid:
            self._open.remove(order)
            return order, [Fact("OrderShipped", {"carrier": self._random.choice(CARRIERS)})]
        if chance > 1 - CANCELLED_SHARE:
            self._open.remove(order)
            return order, [Fact("OrderCancelled", {"reason": self._random.choice(REASONS)})]
        if chance > 1 - CANCELLED_SHARE - CHANGED_SHARE and len(order.items) > 1:
            return order, [self._take_out(order)]
        order.is_paid = True
        return order, [Fact("OrderPaid", {"amount_cents": order.total_cents})]

    def _place(self) -> tuple[Order, Sequence[Fact]]:
        order = Order()
        first, last = self._random.choice(FIRST_NAMES), self._random.choice(LAST_NAMES)
        placed: dict[str, Any] = {"customer": f"{first} {last}", "currency": "EUR"}
        if self._random.random() >= GUESTS_SHARE:
            placed["customer_id"] = f"c-{FIRST_NAMES.index(first) * len(LAST_NAMES) + LAST_NAMES.index(last)}"
        facts = [Fact("OrderPlaced", placed)]
        for sku, price in self._random.sample(PRODUCTS, self._random.randint(1, 4)):
            quantity = self._random.randint(1, 3)
            order.items[sku] = quantity
            facts.append(Fact("ItemAdded", {"sku": sku, "quantity": quantity, "unit_price_cents": price}))
        self._open.append(order)
        return order, facts

    def _take_out(self, order: Order) -> Fact:
        sku = self._random.choice(sorted(order.items))
        quantity = order.items.pop(sku)
        return Fact("ItemRemoved", {"sku": sku, "quantity": quantity, "unit_price_cents": dict(PRODUCTS)[sku]})
