"""Transfers among accounts while what runs them is killed. Run it: `python examples/accounts.py`.

No money is made or lost. Each account is a virtual actor. A transfer takes from one and has the other one called; that
call bears a mark made of the transfer, so it counts once when the transfer is run again after a crash.
"""

import os
import random
import signal
import tempfile
from typing import Any

import ray

from holdfast import workflow

ACCOUNTS, TRANSFERS, KILLS = 10, 200, 3


@workflow.virtual_actor
class Account(workflow.VirtualActor):
    def __init__(self, balance: int) -> None:
        self.balance = balance

    @workflow.virtual_actor.method
    def transfer(self, to: str, amount: int) -> None:
        if amount > self.balance:
            raise ValueError(f"{self.actor_id} has {self.balance} only")
        self.balance -= amount
        # Accepted, and not waited for: two accounts may send to each other at once.
        workflow.get_actor(to).deposit.run_async(amount)

    @workflow.virtual_actor.method
    def deposit(self, amount: int) -> None:
        self.balance += amount

    @workflow.virtual_actor.readonly
    def look(self) -> int:
        return self.balance


if __name__ == "__main__":
    workflow.init(tempfile.mkdtemp(prefix="holdfast-accounts-"))
    accounts = [Account.get_or_create(f"account-{number}", 100) for number in range(ACCOUNTS)]
    ray.get([account.ready() for account in accounts])

    choose = random.Random(7)
    transfers: list[Any] = []
    for number in range(TRANSFERS):
        source, target = choose.sample(accounts, 2)
        call = source.transfer.options(catch_exceptions=True)
        transfers.append(call.run_async(target.actor_id, choose.randrange(1, 50)))
        if number % (TRANSFERS // KILLS) == TRANSFERS // KILLS - 1:
            for host in workflow.platform_status()["virtual_actor_hosts"]:
                os.kill(host["pid"], signal.SIGKILL)
    done = ray.get(transfers)

    # A deposit was accepted before its transfer took effect: it comes, if it has not come yet.
    while workflow.list_all({workflow.RUNNING}):
        ray.get(workflow.run_async(workflow.sleep(0.1)))

    refused = sum(error is not None for _, error in done)
    print(f"{len(done)} transfers, {refused} refused" if refused else f"{len(done)} transfers")
    print("the sum is", sum(account.look.run() for account in accounts))

    workflow.shutdown()
    ray.shutdown()
