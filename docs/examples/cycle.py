"""Two bridges whose coroutines call each other: the call that would close the ring is refused, and the rest goes on."""

import threading

from sidecar import DeadlockError, Sidecar

orders, stock = Sidecar(name="orders"), Sidecar(name="stock")
both_inside = threading.Barrier(2)


async def answer() -> str:
    return "through"


async def order() -> str:
    both_inside.wait()
    return stock.run_sync(answer())  # holds its own loop while it waits


async def count() -> str:
    both_inside.wait()
    return orders.run_sync(answer())


outcomes = []


def call(bridge: Sidecar, coroutine_function: object) -> None:
    try:
        outcomes.append(bridge.run_sync(coroutine_function()))
    except DeadlockError as error:
        outcomes.append(error.code)
        chain = str(error)
        print(chain.count("run_sync(answer()"), "calls in the ring")  # -> 2 calls in the ring


threads = [threading.Thread(target=call, args=pair) for pair in ((orders, order), (stock, count))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(outcomes))  # -> ['SC0001', 'through']
print(orders.run_sync(answer()), stock.run_sync(answer()))  # -> through through

orders.shutdown()
stock.shutdown()
