"""The Serve application that takes events over HTTP.

It keeps nothing: what it has answered 200 for is in a workflow's inbox, on
disk, so it can be killed, scaled and started again at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.exceptions import RayActorError

from holdfast.actors.client import Platform, find_platform, forget_platform
from holdfast.actors.operations import Accepted
from holdfast.actors.requests import EventRequest
from holdfast.engine.errors import (
    HoldfastError,
    InvalidWorkflowIdError,
    StorageError,
    WorkflowEndedError,
    WorkflowNotFoundError,
)
from holdfast.engine.given_numbers import check_number, check_whole
from holdfast.listeners.http import EVENT_PROVIDER
from holdfast.serve.bearer_token import TOKEN_VARIABLE, configured_token, is_authorized
from holdfast.serve.body_reading import BodyReader
from holdfast.serve.event_body import read_event
from holdfast.serve.refusing import RefusedError, wrong_field
from holdfast.serve.request_guard import RequestGuard
from holdfast.workflow.api import event_request

__all__ = ["HTTPEventProvider"]

# Without pages that describe it: they would be there for those who do not bear the token too.
_app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

_MOST_BYTES = 1024 * 1024
_HANDLED_WITHIN_S = 60.0
_BODY_WITHIN_S = 10.0
_BODIES_AT_ONCE = 512
_MOST_REQUESTS = 1000


@_app.exception_handler(RefusedError)
async def _answer_refused(_: Request, refused: RefusedError) -> JSONResponse:
    return JSONResponse({"detail": refused.detail}, status_code=refused.status, headers=refused.headers)


class EventProvider:
    """Takes events for workflows: `POST <prefix>/send_event/<workflow_id>`.

    Args:
        most_bytes: Of a body; a longer one is answered 413.
        handled_within_s: Seconds that a listener with an `event_checkpointed` of its own may take before the answer
            is 504; the event is durable then all the same.
        token_required: Refuse to start where `HOLDFAST_HTTP_TOKEN` is not set: it was where this was started from.
        body_within_s: Seconds that a body may take; else it is answered 408.
        bodies_at_once: How many bodies are read at the same time, 999 at most, so that Serve has places for others.
            When more come, the one that has taken longest is answered 408.
        allowed_hosts: Names under which events may be posted, beside loopback names and the address of the server:
            `events.example.com`, `*.example.com`, or `*` for any. Another `Host` is answered 403. With a token, and
            none given, any is good.
        allowed_origins: Origins of web pages that may post, as `https://shop.example.com`, or `*`. Those of another
            host than the one they post to are answered 403.

    Raises:
        ValueError: A limit out of range, a host or an origin that is none, or the token is empty.
        RuntimeError: A token is required and there is none.

    Semantics: docs/semantics.md, "Events over HTTP".
    """

    def __init__(
        self,
        most_bytes: int = _MOST_BYTES,
        handled_within_s: float = _HANDLED_WITHIN_S,
        token_required: bool = False,
        *,
        body_within_s: float = _BODY_WITHIN_S,
        bodies_at_once: int = _BODIES_AT_ONCE,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self._handled_within_s = check_number("handled_within_s", handled_within_s, above=True)
        self._reader = BodyReader(
            most_bytes=check_whole("most_bytes", most_bytes, least=1, unit="bytes"),
            within_s=check_number("body_within_s", body_within_s, above=True),
            at_once=check_whole("bodies_at_once", bodies_at_once, least=1, most=_MOST_REQUESTS - 1),
        )
        self._token = configured_token()
        self._guard = RequestGuard(allowed_hosts, allowed_origins, token_required=self._token is not None)
        if token_required and self._token is None:
            raise RuntimeError(
                f"{TOKEN_VARIABLE} is set where the events were started from, but not in the replica's environment: "
                "set it where Ray's nodes are started, or in the runtime_env of the deployment's ray_actor_options"
            )

    # The second path is what remains where the application is served at "/", as it is without a route prefix.
    @_app.post("/send_event/{workflow_id:path}")
    @_app.post("/event/send_event/{workflow_id:path}")
    async def send_event(self, workflow_id: str, request: Request) -> JSONResponse:
        """Take an event in.

        Returns:
            200 once the event is durable, or once its listener has reported well; else what docs/semantics.md says.
        """
        self._guard.check(request)
        if not is_authorized(request.headers.get("authorization"), self._token):
            raise RefusedError(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})
        idempotency_key = request.headers.get("idempotency-key")
        if idempotency_key is not None and not idempotency_key.strip():
            raise wrong_field("string_too_short", "Idempotency-Key is empty", "header", "Idempotency-Key")
        event = await read_event(request, self._reader)
        accepted = await self._take(workflow_id, event.key, event.payload, idempotency_key)
        if not accepted.handled:
            raise RefusedError(500, f"the listener of workflow {workflow_id!r} reported that it could not take it")
        return JSONResponse(
            {"workflow_id": workflow_id, "event_key": event.key, "repeated": not accepted.fresh},
            headers=self._guard.answer_headers(request.headers),
        )

    @_app.options("/send_event/{workflow_id:path}")
    @_app.options("/event/send_event/{workflow_id:path}")
    async def allow_page(self, workflow_id: str, request: Request) -> Response:
        """Answer a browser that asks whether a page of another origin may post: those of `allowed_origins` may."""
        del workflow_id  # every workflow is asked for alike
        self._guard.check(request)
        found = self._guard.answer_headers(request.headers)
        if not found:
            raise RefusedError(405, "an event is posted", {"Allow": "POST"})
        asked = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "authorization, content-type, idempotency-key",
        }
        return Response(status_code=204, headers={**found, **asked})

    @_app.get("/send_event")
    @_app.get("/event/send_event")
    async def tell_who_this_is(self) -> JSONResponse:
        """Who answers here: how `start_http_events` knows that it is reached where it says."""
        return JSONResponse({"service": EVENT_PROVIDER})

    async def report_checkpointed(self, workflow_id: str, event_key: str, ok: bool = True) -> bool:
        """A listener says how it took an event, through a Serve handle. Its own `handle` does not come this way.

        Args:
            workflow_id: The workflow that got it.
            event_key: The key it was sent under.
            ok: Whether all is well.

        Returns:
            Whether somebody waited to hear it.
        """
        told: bool = await self._ask(workflow_id, "report_checkpointed", workflow_id, event_key, ok)
        return told

    async def _take(self, workflow_id: str, key: str, payload: Any, idempotency_key: str | None) -> Accepted:
        request = _request(workflow_id, key, payload, idempotency_key)
        try:
            outcome = await asyncio.wait_for(self._ask(workflow_id, "post", request), self._handled_within_s)
        except asyncio.TimeoutError as error:
            detail = f"the event was not known to be handled within {self._handled_within_s:g} s"
            raise RefusedError(504, f"{detail}; repeat it with the same Idempotency-Key") from error
        match outcome:
            case Accepted():
                return outcome
            case WorkflowNotFoundError():
                raise RefusedError(404, f"there is no workflow {workflow_id!r}")
            case WorkflowEndedError():
                raise RefusedError(409, str(outcome))
        # A full disk, say: nothing was taken.
        raise RefusedError(503, str(outcome))

    async def _ask(self, workflow_id: str, method: str, *args: Any) -> Any:
        """Ask the workflow's executor; of a platform that was started anew meanwhile, too."""
        for known in (True, False):
            # Once known it costs nothing; finding it waits for the management actor, and no other request does.
            platform = await asyncio.to_thread(_platform)
            try:
                return await platform.ask_async(workflow_id, method, *args)
            except StorageError as error:
                raise RefusedError(503, str(error)) from error
            except (RayActorError, ValueError) as error:
                if isinstance(error, HoldfastError) or not known:
                    raise
                forget_platform()
        raise AssertionError("the second time it returns or raises")


def _platform() -> Platform:
    platform = find_platform()
    if platform is None:
        raise RefusedError(
            503, "no workflows are open on this cluster: call workflow.init() first", {"Retry-After": "1"}
        )
    return platform


def _request(workflow_id: str, key: str, payload: Any, idempotency_key: str | None) -> EventRequest:
    try:
        return event_request(workflow_id, key, payload, idempotency_key, follow=True)
    except InvalidWorkflowIdError as error:
        # No workflow can have it, so there is none.
        raise RefusedError(404, str(error)) from error
    except ValueError as error:
        raise wrong_field("string_unicode", str(error), "body", "event_key") from error
    except TypeError as error:
        # Nested too deeply to be pickled: all else that JSON can hold can be stored.
        raise wrong_field("not_storable", str(error), "body", "event_payload") from error


HTTPEventProvider: Any = serve.deployment(
    name=EVENT_PROVIDER, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=_MOST_REQUESTS
)(serve.ingress(_app)(EventProvider))
"""`serve.run(HTTPEventProvider.bind(), name=..., route_prefix="/event")`; arguments of `bind`: see EventProvider."""
