"""The payment service. It declines some cards, fails at times, and at times its answer is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from examples.orders.outside import Call, Outside, lot

ANSWER_TIME_S = 0.03
LOST_ANSWER_TIME_S = 60.0
CONFIRMATION_DELAY_S = 0.3


class PaymentUnavailableError(Exception):
    """The payment service is having a bad moment. Asking again may help."""


class CardDeclinedError(Exception):
    """The card is no good. Asking again does not help."""


@dataclass(frozen=True)
class PaymentService:
    """Charges and refunds, each once per order, and the confirmations that customers give later."""

    outside: Outside

    def charge(self, order_id: str, cents: int) -> str:
        """Charge a card.

        Raises:
            CardDeclinedError: For good.
            PaymentUnavailableError: For the moment.
        """
        time.sleep(ANSWER_TIME_S)
        temper = lot(order_id, "temper")
        problem: Exception | None = None
        answer_is_lost = False
        with self.outside.operation(order_id, "charge") as call:
            attempt = call.attempt
            if temper < 3:
                call.say("declined")
                problem = CardDeclinedError(f"the card for {order_id} was declined")
            elif temper < 20 and attempt <= 1 + temper % 2:
                call.say("failed")
                problem = PaymentUnavailableError(f"the payment service is overloaded (attempt {attempt})")
            else:
                self._book(call, "charge", cents)
                # The nasty case: the money is taken, but whoever asked never hears of it.
                answer_is_lost = attempt == 1 and 20 <= temper < 22
                if answer_is_lost:
                    call.say("hung")
        # Raised after the transaction, so that the failed call stays written down.
        if problem is not None:
            raise problem
        if answer_is_lost:
            time.sleep(LOST_ANSWER_TIME_S)
        return f"charge-{order_id}"

    def refund(self, order_id: str, cents: int) -> None:
        """Give back what was charged for an order."""
        with self.outside.operation(order_id, "refund") as call:
            self._book(call, "refund", -cents)

    def confirmations_due(self) -> list[str]:
        """Orders whose charge the customer has confirmed, and nobody was told yet. Some never confirm."""
        with self.outside.connected() as db:
            rows = db.execute(
                "SELECT order_id FROM payments WHERE operation = 'charge' AND at_unix_s < ? "
                "AND order_id NOT IN (SELECT order_id FROM confirmed) ORDER BY at_unix_s",
                (time.time() - CONFIRMATION_DELAY_S,),
            )
            return [order_id for (order_id,) in rows if lot(order_id, "customer") >= 6]

    def confirmation_was_told(self, order_id: str) -> None:
        """Remember that a confirmation was passed on."""
        with self.outside.connected() as db, db:
            db.execute("INSERT OR IGNORE INTO confirmed VALUES (?)", (order_id,))

    @staticmethod
    def _book(call: Call, operation: str, cents: int) -> None:
        row = (call.order_id, operation, cents, time.time())
        if call.db.execute("INSERT OR IGNORE INTO payments VALUES (?, ?, ?, ?)", row).rowcount == 0:
            call.say("again")
