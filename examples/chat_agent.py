"""A chat agent that remembers, behind HTTP on Ray Serve.

    python -m examples.chat_agent            # talks to itself, and is killed in between
    python -m examples.chat_agent --serve    # serves on http://127.0.0.1:8000 until Ctrl-C

    curl -X POST localhost:8000/chats/ann -H 'Content-Type: application/json' -d '{"text": "My name is Ann"}'
    curl localhost:8000/chats/ann

Each conversation is a virtual actor: what was said is its state, and outlives every process. While nobody talks it is a
row on disk. What is said in one conversation is answered in order, others go on meanwhile. A message that is posted
again under its Idempotency-Key gets the answer it had: the model is not asked twice, and remembers it once.
"""

# No `from __future__ import annotations` here: Serve carries the handlers to its replicas by value, and FastAPI would
# not find there what annotations name that are only text.
import argparse
import asyncio
import json
import logging
import os
import re
import signal
import tempfile
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import ray
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from ray import serve

from holdfast import workflow

app = FastAPI(title="Chats")


async def complete(turns: list[dict[str, str]]) -> str:
    """Stands in for a language model: given the conversation, the next answer. It knows names, and how to count."""
    await asyncio.sleep(0.05)
    said = [turn["text"] for turn in turns if turn["by"] == "user"]
    names = [found[1] for text in said if (found := re.search(r"my name is (\w+)", text, re.IGNORECASE))]
    if "my name is" in said[-1].lower() and names:
        return f"Hello, {names[-1]}."
    if "what is my name" in said[-1].lower():
        return f"Your name is {names[-1]}." if names else "You have not told me."
    return f"That is the {len(said)}. thing you tell me."


@workflow.virtual_actor
class Agent(workflow.VirtualActor):
    """One conversation."""

    def __init__(self) -> None:
        self.turns: list[dict[str, str]] = []

    @workflow.virtual_actor.method
    async def say(self, text: str) -> str:
        self.turns.append({"by": "user", "text": text})
        # While the model thinks, this takes no thread. If it fails, nothing was said.
        answer = await complete(self.turns)
        self.turns.append({"by": "agent", "text": answer})
        return answer

    @workflow.virtual_actor.readonly
    def read(self) -> list[dict[str, str]]:
        return self.turns


class Message(BaseModel):
    """What a user sends."""

    text: str = Field(min_length=1, max_length=10_000)


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Chats:
    """Hands messages to conversations. It keeps nothing itself."""

    @app.post("/chats/{chat_id}")
    async def say(
        self, chat_id: str, message: Message, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> dict[str, str]:
        agent = await Agent.aio.get_or_create(chat_id)
        say = agent.say.options(idempotency_key=idempotency_key or None)
        try:
            return {"answer": await say.aio.run(message.text)}
        except workflow.exceptions.MailboxFullError:
            raise HTTPException(503, "too much at once: try again", {"Retry-After": "1"}) from None

    @app.get("/chats/{chat_id}")
    async def read(self, chat_id: str) -> dict[str, Any]:
        try:
            agent = await workflow.aio.get_actor(chat_id)
            return {"turns": await agent.read.aio.run()}
        except workflow.exceptions.VirtualActorNotFoundError:
            raise HTTPException(404, f"no chat {chat_id!r}") from None


def ask(url: str, text: str | None = None, idempotency_key: str = "") -> Any:
    """Post a message, or read a conversation, as anybody could with curl. What came back, or the HTTP status."""
    request = urllib.request.Request(
        url,
        data=None if text is None else json.dumps({"text": text}).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def talk(url: str) -> None:
    """Two conversations at once, whose process is killed in the middle."""
    with ThreadPoolExecutor(2) as threads:
        introductions = [(f"{url}/chats/{name.lower()}", f"My name is {name}") for name in ("Ann", "Bob")]
        for answer in threads.map(lambda one: ask(*one), introductions):
            print(answer["answer"])
    for host in workflow.platform_status()["virtual_actor_hosts"]:
        os.kill(host["pid"], signal.SIGKILL)
    print("the process of the agents is killed")
    print(ask(f"{url}/chats/ann", "What is my name?", "m-2")["answer"])
    print("posted again:", ask(f"{url}/chats/ann", "What is my name?", "m-2")["answer"])
    print(ask(f"{url}/chats/bob", "I like tea")["answer"])
    print("ann's conversation has", len(ask(f"{url}/chats/ann")["turns"]), "turns")
    print("eve's:", ask(f"{url}/chats/eve"))
    for name in ("ann", "bob"):
        print(name, "is", workflow.get_status(name).value, "after", workflow.describe(name).state_version, "calls")


def main() -> None:
    """Serve, and talk or let others talk."""
    parser = argparse.ArgumentParser(description="A chat agent with memory, behind Ray Serve.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--serve", action="store_true", help="until Ctrl-C, in place of talking to itself")
    given = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(tempfile.mkdtemp(prefix="holdfast-chats-"))
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})
        serve.run(Chats.bind(), name="chats", route_prefix="/")  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{given.port}"
        if given.serve:
            print(f"Chats are held at {url}/chats/<name>", flush=True)
            threading.Event().wait()
        else:
            talk(url)
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        workflow.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
