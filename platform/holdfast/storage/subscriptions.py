"""What starts workflows from events of outside sources: a durable rule, and a row for each event it is yet to act on.

The row goes in the transaction that submits the workflow. So an event starts
its workflow once, whoever dies on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph
from holdfast.engine.records import GraphLogged
from holdfast.engine.selectors import parse_selector
from holdfast.storage import layout, start_rows
from holdfast.storage.actor_codec import read_spec, spec_entry
from holdfast.storage.actor_row import ActorSpec
from holdfast.storage.beginnings import has_begun
from holdfast.storage.event_store import StoredEvent, find_source, get_event, last_number, need_source
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import UNREADABLE, Frame, decode_graphs, encode_graph, open_frame
from holdfast.storage.workflow_store import count_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A rule: each event of a stream starts a workflow.

    Attributes:
        name: Its name, which is the user's.
        source, selector: Which events.
        graph: One node, which takes the event as its only argument. For a rule of an actor: `task_id` is the method,
            and the options are those of each call.
        actor: The class whose actors are called, in place of workflows being started; `id_template` and
            `id_function` then make the actor's id. None for a rule that starts workflows.
        creates: Of a rule of an actor: one that is not there is made, without arguments.
        environment: Hash of the runtime environment in the code store; empty for none.
        id_template: How a workflow's id is made of the event; empty when a function makes it.
        id_function: Hash of that function's code; empty for none.
        user_metadata: Of each workflow, JSON.
        events_from: Number of the last event before it was made: it starts workflows from those after it.
        created_unix_s: When it was made.
        number: Its own; 0 before it is kept.
        started, repeated: Workflows started so far; events whose workflow id was known already.
    """

    name: str
    source: str
    selector: str
    graph: Graph
    actor: ActorSpec | None = None
    creates: bool = True
    environment: str = ""
    id_template: str = ""
    id_function: str = ""
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    events_from: int = 0
    created_unix_s: float = 0.0
    number: int = 0
    started: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToStart:
    """An event that is yet to start a workflow, or to call an actor.

    Attributes:
        subscription: Number of the rule.
        event: The event.
        actor_id: The actor that it is for; empty when nobody has said it yet.
    """

    subscription: int
    event: StoredEvent
    actor_id: str = ""


def subscribe(txn: WriteTransaction, subscription: Subscription, now_unix_s: float) -> tuple[Subscription, bool]:
    """Keep a rule. One of the same name takes the place of the one before, and goes on where that was.

    Returns:
        The rule as kept, and whether its source is new: whoever reads such sources has to be told.

    Raises:
        ValueError: The name is that of a rule for other events.
    """
    known = find_subscription(txn, subscription.name)
    selector = parse_selector(subscription.selector)
    source, new = need_source(txn, subscription.source, now_unix_s, decoded=not selector.raw)
    if known is not None:
        if (known.source, known.selector) != (subscription.source, subscription.selector):
            raise ValueError(
                f"the subscription {subscription.name!r} is for events of {known.source} ({known.selector}), and not "
                f"of {subscription.source} ({subscription.selector}). Give it another name=, or delete the old one "
                "with workflow.delete_event_subscription"
            )
        kept = replace(
            subscription,
            number=known.number,
            events_from=known.events_from,
            created_unix_s=known.created_unix_s,
            started=known.started,
            repeated=known.repeated,
        )
        _save(txn, kept)
        return kept, new
    kept = replace(
        subscription,
        number=count_up(txn, "subscription"),
        events_from=last_number(txn),
        created_unix_s=now_unix_s,
    )
    if selector.where is not None:
        names = orjson.dumps(sorted(selector.where))
        txn.put(layout.field_set(source.number, names.decode()), names)
    txn.put(layout.subscription_name(kept.name), layout.pack(kept.number))
    # Where to begin is fixed, so what was there before that is older, whatever its times say.
    older_than = None if has_begun(txn, subscription.source) else kept.created_unix_s
    txn.put(layout.subscribers(source.number, kept.selector, kept.number), orjson.dumps(older_than))
    _save(txn, kept)
    return kept, new


def unsubscribe(txn: WriteTransaction, name: str) -> bool:
    """Forget a rule, and the events it had not acted on. Returns whether it was there."""
    known = find_subscription(txn, name)
    if known is None:
        return False
    source = find_source(txn, known.source)
    if source is not None:
        txn.delete(layout.subscribers(source.number, known.selector, known.number))
    start_rows.remove_all(txn, known.number)
    txn.delete(layout.subscription(known.number))
    txn.delete(layout.subscription_name(name))
    return True


def find_subscription(txn: ReadTransaction, name: str) -> Subscription | None:
    """The rule of a name; None when there is none."""
    raw = txn.get(layout.subscription_name(name))
    return None if raw is None else get_subscription(txn, layout.unpack(raw))


def get_subscription(txn: ReadTransaction, number: int) -> Subscription | None:
    """The rule of a number; None when it was forgotten."""
    raw = txn.get(layout.subscription(number))
    return None if raw is None else _decode(number, raw)


def list_subscriptions(txn: ReadTransaction) -> list[Subscription]:
    """The rules, in the order in which they were made.

    Raises:
        StorageCorruptError: The row of one is damaged; names its number.
    """
    return [_decode(layout.last_part(key), raw) for key, raw in txn.scan(layout.SUBSCRIPTIONS)]


def to_start(txn: ReadTransaction, subscription: int, *, after: int = 0, limit: int) -> list[ToStart]:
    """Events that are yet to start a workflow, in order.

    Args:
        txn: The transaction.
        subscription: The rule.
        after: Those with a higher number.
        limit: At most so many.
    """
    found: list[ToStart] = []
    for key, raw in txn.scan(layout.start(subscription), start=layout.start(subscription, after + 1)):
        if len(found) >= limit:
            break
        source, actor_id = start_rows.read(raw)
        event = get_event(txn, source, layout.last_part(key))
        if event is not None:
            found.append(ToStart(subscription=subscription, event=event, actor_id=actor_id))
    return found


def is_to_start(txn: ReadTransaction, subscription: int, number: int) -> StoredEvent | None:
    """The event, when it is yet to start its workflow; None when it has, or never was to."""
    raw = txn.get(layout.start(subscription, number))
    return None if raw is None else get_event(txn, start_rows.read(raw)[0], number)


def note_started(txn: WriteTransaction, subscription: Subscription, number: int, *, repeated: bool) -> None:
    """An event has started its workflow, or the workflow was there already; in the transaction that says so."""
    start_rows.remove(txn, subscription.number, number)
    _save(
        txn,
        replace(
            subscription,
            started=subscription.started + (not repeated),
            repeated=subscription.repeated + repeated,
        ),
    )


def set_aside(txn: WriteTransaction, subscription: int, number: int) -> None:
    """An event cannot start its workflow: it is a dead letter from now on."""
    start_rows.remove(txn, subscription, number)


def start_again(txn: WriteTransaction, subscription: int, source: int, number: int) -> None:
    """An event that was set aside is to have its effect after all; for which actor, is asked again."""
    start_rows.add(txn, subscription, number, source)


def submission_nonce(subscription: int, number: int) -> str:
    """The mark of the submission that an event leads to: the same each time."""
    return hashlib.blake2b(f"subscription {subscription} event {number}".encode(), digest_size=16).hexdigest()


def _save(txn: WriteTransaction, subscription: Subscription) -> None:
    graph = GraphLogged(
        first=0,
        nodes=subscription.graph.nodes,
        sink=subscription.graph.sink,
        parent=None,
        group=subscription.graph.sink,
        catcher=None,
        scope=None,
    )
    frame = Frame()
    ((_, piece),) = encode_graph(graph)
    header = {
        "name": subscription.name,
        "source": subscription.source,
        "selector": subscription.selector,
        "graph": frame.add(piece),
        "environment": subscription.environment,
        "id_template": subscription.id_template,
        "id_function": subscription.id_function,
        "metadata": subscription.user_metadata,
        "events_from": subscription.events_from,
        "created": subscription.created_unix_s,
        "counts": [subscription.started, subscription.repeated],
    }
    if subscription.actor is not None:
        header |= {"actor": spec_entry(subscription.actor), "creates": subscription.creates}
    txn.put(layout.subscription(subscription.number), frame.close(header))


def _decode(number: int, raw: bytes) -> Subscription:
    try:
        return _decode_sound(number, raw)
    except UNREADABLE as error:
        problem = f"the row of event subscription number {number} is damaged ({type(error).__name__}: {error})"
        raise StorageCorruptError("meta.lmdb", problem, "Restore the folder from a backup.") from error


def _decode_sound(number: int, raw: bytes) -> Subscription:
    header, pieces = open_frame(raw)
    (graph,) = decode_graphs(iter((pieces[header["graph"]],)))
    started, repeated = header["counts"]
    return Subscription(
        number=number,
        name=header["name"],
        source=header["source"],
        selector=header["selector"],
        graph=Graph(nodes=graph.nodes, sink=graph.sink),
        actor=read_spec(header["actor"]) if "actor" in header else None,
        creates=header.get("creates", True),
        environment=header["environment"],
        id_template=header["id_template"],
        id_function=header["id_function"],
        user_metadata=header["metadata"],
        events_from=header["events_from"],
        created_unix_s=header["created"],
        started=started,
        repeated=repeated,
    )
