"""Rows of virtual actors to bytes and back. As in `record_codec`: a JSON header, then binary pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.engine.graph import Graph
from holdfast.engine.records import GraphLogged
from holdfast.engine.schedules import Overlap
from holdfast.engine.virtual_actor_records import (
    CallSpec,
    Condition,
    FinishedCall,
    Outcome,
    QueuedCall,
    Standing,
    SubWorkflow,
)
from holdfast.storage.actor_row import ActorRow, ActorSpec, ActorState, Reminder, SubRequest
from holdfast.storage.record_codec import (
    Frame,
    arguments_entry,
    error_entry,
    open_frame,
    options_entry,
    read_arguments,
    read_error,
    read_options,
    read_value,
    value_entry,
)

_SPEC_FIELDS = tuple(name for name in ActorSpec.__dataclass_fields__ if name != "formerly")


def spec_entry(spec: ActorSpec) -> dict[str, Any]:
    """Header entry of an actor's class."""
    entry = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    return {**entry, "formerly": spec.formerly} if spec.formerly else entry


def read_spec(entry: dict[str, Any]) -> ActorSpec:
    """The class of an entry."""
    return ActorSpec(**{**entry, "formerly": tuple(entry.get("formerly", ()))})


# -- actors ------------------------------------------------------------------------------------------------------------


def encode_actor(row: ActorRow) -> bytes:
    """An actor's own row."""
    frame = Frame()
    standing = row.standing
    header: dict[str, Any] = {"id": row.actor_id, "spec": spec_entry(row.spec), "nonce": row.nonce}
    header |= {"created": row.created_unix_s, "suspected": row.suspected, "resumed_by": row.resumed_by}
    header |= {"version": standing.version, "initialized": standing.initialized, "said": standing.said}
    header |= {"condition": standing.condition.value, "deaths": standing.deaths, "next": standing.next_number}
    header |= {"names": standing.names, "last": standing.last_call, "called": standing.called_unix_s}
    if standing.state is not None:
        state: ActorState = standing.state
        entry = arguments_entry(state.base, frame)
        header["state"] = {"base": entry, "json": state.json, "class_version": state.class_version}
    if standing.error is not None:
        header["error"] = error_entry(standing.error, frame)
    return frame.close(header)


def decode_actor(seq: int, raw: bytes) -> ActorRow:
    """The actor of a row."""
    header, pieces = open_frame(raw)
    state = header.get("state")
    if state is not None:
        base = read_arguments(state["base"], pieces)
        assert not isinstance(base, bytes)
        state = ActorState(base, state["json"], state["class_version"])
    return ActorRow(
        seq=seq,
        actor_id=header["id"],
        spec=read_spec(header["spec"]),
        nonce=header["nonce"],
        created_unix_s=header["created"],
        suspected=header["suspected"],
        resumed_by=header["resumed_by"],
        standing=Standing(
            version=header["version"],
            state=state,
            initialized=header["initialized"],
            condition=Condition(header["condition"]),
            error=read_error(header["error"], pieces) if "error" in header else None,
            said=header["said"],
            deaths=header["deaths"],
            next_number=header["next"],
            names=header["names"],
            last_call=header["last"],
            called_unix_s=header["called"],
        ),
    )


# -- calls -------------------------------------------------------------------------------------------------------------


def encode_queued(call: QueuedCall) -> bytes:
    """A row of a mailbox. The graph of what it goes on with has rows of its own."""
    frame = Frame()
    spec = call.spec
    header: dict[str, Any] = {"name": call.name, "method": spec.method, "nonce": spec.nonce, "asked": spec.name}
    header |= {"arguments": arguments_entry(spec.arguments, frame), "options": options_entry(spec.options, frame)}
    header |= {"key": spec.key, "creates": spec.creates, "chain": spec.chain, "origin": spec.origin}
    header |= {"accepted": call.accepted_unix_s, "errors": call.errors, "due": call.due_unix_s, "failed": call.failed}
    header["times"] = [call.started_unix_s, call.ended_unix_s]
    if spec.lent:
        header["lent"] = True
    if call.continues is not None:
        request: SubRequest = call.continues.request
        header["continues"] = {
            "id": call.continues.workflow_id,
            "nonce": call.continues.nonce,
            "metadata": request.user_metadata,
            "environment": request.environment,
            "sink": request.graph.sink,
        }
    return frame.close(header)


def decode_queued(number: int, raw: bytes, graph: GraphLogged | None) -> QueuedCall:
    """The call of a row of a mailbox.

    Args:
        number: Its number.
        raw: The row.
        graph: What it goes on with, if it does.
    """
    header, pieces = open_frame(raw)
    started, ended = header["times"]
    continues = None
    about = header.get("continues")
    if about is not None:
        request = SubRequest(
            graph=Graph(nodes=() if graph is None else graph.nodes, sink=about["sink"]),
            user_metadata=about["metadata"],
            environment=about["environment"],
        )
        continues = SubWorkflow(workflow_id=about["id"], nonce=about["nonce"], request=request)
    return QueuedCall(
        number=number,
        name=header["name"],
        spec=CallSpec(
            method=header["method"],
            nonce=header["nonce"],
            arguments=read_arguments(header["arguments"], pieces),
            key=header["key"],
            name=header["asked"],
            options=read_options(header["options"], pieces),
            creates=header["creates"],
            chain=tuple(header["chain"]),
            origin=header["origin"],
            lent=header.get("lent", False),
        ),
        accepted_unix_s=header["accepted"],
        logged=True,
        errors=header["errors"],
        due_unix_s=header["due"],
        continues=continues,
        started_unix_s=started,
        ended_unix_s=ended,
        failed=header["failed"],
    )


def encode_finished(call: FinishedCall) -> bytes:
    """The row of a call that has ended."""
    frame = Frame()
    header: dict[str, Any] = {"name": call.name, "method": call.method, "nonce": call.nonce}
    header["times"] = [call.accepted_unix_s, call.started_unix_s, call.ended_unix_s]
    header["version"] = call.outcome.version
    if call.key:
        header["key"] = call.key
    if call.origin:
        header["origin"] = call.origin
    if call.metadata:
        header["metadata"] = call.metadata
    if call.outcome.value is not None:
        header["value"] = value_entry(call.outcome.value, frame)
    else:
        header["error"] = error_entry(call.outcome.error, frame)
    return frame.close(header)


def decode_finished(number: int, raw: bytes) -> FinishedCall:
    """The call of such a row."""
    header, pieces = open_frame(raw)
    accepted, started, ended = header["times"]
    return FinishedCall(
        number=number,
        name=header["name"],
        method=header["method"],
        nonce=header["nonce"],
        key=header.get("key", ""),
        origin=header.get("origin", ""),
        metadata=header.get("metadata", {}),
        outcome=_read_outcome(header, pieces),
        accepted_unix_s=accepted,
        started_unix_s=started,
        ended_unix_s=ended,
    )


def _read_outcome(header: dict[str, Any], pieces: Sequence[bytes]) -> Outcome:
    version = header["version"]
    if "value" in header:
        return Outcome(value=read_value(header["value"], pieces)[0], version=version)
    return Outcome(error=read_error(header["error"], pieces), version=version)


# -- reminders ---------------------------------------------------------------------------------------------------------


def encode_reminder(reminder: Reminder) -> bytes:
    """A reminder's row."""
    frame = Frame()
    header: dict[str, Any] = {"name": reminder.name, "method": reminder.method, "timing": reminder.timing}
    header |= {"next": reminder.next_due_unix_s, "nonce": reminder.nonce, "created": reminder.created_unix_s}
    header["held"] = reminder.held_until_unix_s
    header |= {"overlap": reminder.overlap.value, "catch_up_s": reminder.catch_up_s, "skipped": reminder.skipped}
    header["missed_until"] = reminder.missed_until_unix_s
    header |= {"fired": reminder.fired, "options": options_entry(reminder.options, frame)}
    header["arguments"] = arguments_entry(reminder.arguments, frame)
    return frame.close(header)


def decode_reminder(raw: bytes) -> Reminder:
    """The reminder of a row."""
    header, pieces = open_frame(raw)
    return Reminder(
        name=header["name"],
        method=header["method"],
        timing=header["timing"],
        next_due_unix_s=header["next"],
        nonce=header["nonce"],
        arguments=read_arguments(header["arguments"], pieces),
        options=read_options(header["options"], pieces),
        created_unix_s=header["created"],
        fired=header["fired"],
        held_until_unix_s=header["held"],
        # Rows of before have none of these.
        overlap=Overlap(header.get("overlap", Overlap.SKIP)),
        catch_up_s=header.get("catch_up_s"),
        skipped=header.get("skipped", 0),
        missed_until_unix_s=header.get("missed_until"),
    )
