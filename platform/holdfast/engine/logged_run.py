"""Joins the records of a run: its tasks, those that the result needs, and the events that were read.

Only a load from all records asks; nothing here changes a run, but for the ids
and the scopes that the records tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast.engine.graph import NodeKind, NodeSpec, TaskIndex
from holdfast.engine.records import GraphLogged
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import CarriedEvent, RunState
from holdfast.engine.values import Split, Value, events_in, names_in


class LoggedRun:
    """Holds the records of one run, joined.

    Args:
        state: Takes the root, the ids given out, and what catches around what.
        image: The records.

    Attributes:
        specs: Each task with the graph it came in.
        remaining: Tasks that a split has named, but for those that ended with their scope.
        pickled: Tasks that a user's code has pickled by itself.
        unseen: For results that an earlier version has logged: the remaining tasks that may stand in them.
    """

    def __init__(self, state: RunState, image: RunImage) -> None:
        self._image = image
        self._outer_scope = state.outer_scope
        self._tails: dict[TaskIndex, TaskIndex] = {}
        self.specs: dict[TaskIndex, tuple[GraphLogged, NodeSpec]] = {}
        for graph in image.graphs:
            self._add(state, graph)
        splits = [one.value.base for one in image.finished.values() if one.origin is None]
        named = {at: None for base in splits if isinstance(base, Split) for at, _ in base.remaining}
        self.remaining = [at for at in named if not self._was_given_up(at)]
        self.pickled = [at for done in image.finished.values() for at in done.kept]
        self.pickled.extend(at for passed in image.continuing.values() for at in passed.kept)
        self.unseen = self._find_unseen()

    def _add(self, state: RunState, graph: GraphLogged) -> None:
        for offset, node in enumerate(graph.nodes):
            self.specs[graph.first + offset] = (graph, node)
            state.names.observe(node.task_id)
        if graph.parent is None:
            state.root = graph.sink
        if graph.catcher is not None:
            state.outer_scope[graph.catcher] = self.specs[graph.catcher][0].scope
            self._tails[graph.catcher] = graph.sink
        if graph.group != graph.sink and not self._passes_on(graph):
            # The last link of a chain: the only one whose value the first still waits for.
            self._tails[graph.group] = graph.sink
        state.next_index = max(state.next_index, graph.first + len(graph.nodes))

    def _passes_on(self, graph: GraphLogged) -> bool:
        """Whether the sink continued and has no part in its value any more; one that catches waits for it."""
        catches = graph.nodes[graph.sink - graph.first].options.catch_exceptions
        return graph.sink in self._image.continuing and not catches

    def _was_given_up(self, index: TaskIndex) -> bool:
        """Whether a failure ended the scope of a task or one around it, and with it all that ran there."""
        scope = self.specs[index][0].scope
        while scope is not None:
            done = self._image.finished.get(scope)
            if done is not None and done.value.caught and done.value.wraps == 0:
                return True
            scope = self._outer_scope.get(scope)
        return False

    def _find_unseen(self) -> dict[TaskIndex, set[TaskIndex]]:
        finished = self._image.finished
        old = [at for at, done in finished.items() if _is_old(done.value)]
        may = {at: {one for one, _ in finished[at].value.base.remaining} for at in old}
        changed = bool(may)
        while changed:
            changed = False
            for index, done in finished.items():
                node = self.specs[index][1]
                if index in may and _is_old(done.value):
                    continue
                # Whoever returned a value may have put into it what it was given; a graph says what it takes.
                given = node.inputs if done.origin is None else (done.origin,)
                found: set[TaskIndex] = set().union(*(may.get(at, ()) for at in given))
                if node.kind is NodeKind.CALL and not found <= may.setdefault(index, set()):
                    may[index] |= found
                    changed = True
        return {at: names for at, names in may.items() if names and not _is_old(finished[at].value)}

    # -- what is needed ------------------------------------------------------------------------------------------

    def reach(self, start: Iterable[TaskIndex]) -> set[TaskIndex]:
        """Find some tasks, all that their values need, and all that a reader of these may ask for."""
        reached: set[TaskIndex] = set()
        todo = list(start)
        while todo:
            index = todo.pop()
            if index not in reached:
                reached.add(index)
                todo.extend(self._below(index))
        return reached

    def _below(self, index: TaskIndex) -> Iterator[TaskIndex]:
        done = self._image.finished.get(index)
        if done is not None:
            names = (*names_in(done.value), *self.unseen.get(index, ()))
            yield from (at for at in names if at in self.specs and not self._was_given_up(at))
            return
        graph, node = self.specs[index]
        if graph.scope is not None:
            yield graph.scope
        if index not in self._image.continuing:
            yield from node.inputs
        elif index in self._tails:
            yield self._tails[index]

    def goes_on_unread(self, index: TaskIndex) -> bool:
        """Whether an unread task continues: it needs no event, and has not ended without a record."""
        if not self.specs[index][1].options.checkpoint:
            return False
        below = self.reach([index])
        return all(self.specs[at][1].kind is not NodeKind.EVENT or at in self._image.finished for at in below)

    # -- events --------------------------------------------------------------------------------------------------

    def note_read(self, state: RunState) -> None:
        """Mark the events that a user's code was given before."""
        if not state.carried:
            return
        seen: set[TaskIndex] = set()
        todo = [at for index, (_, node) in self.specs.items() if self._was_started(index, node) for at in node.inputs]
        while todo:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            done = self._image.finished.get(at)
            if done is None:
                # Its result is not logged; it had one, or what took it could not have been started.
                todo.extend(self.specs[at][1].inputs)
                continue
            for taken, _ in events_in(done.value):
                if taken.number in state.carried:
                    state.carried[taken.number].read = True

    def _was_started(self, index: TaskIndex, node: NodeSpec) -> bool:
        image = self._image
        begun = index in image.finished or index in image.continuing or index in image.waiting
        return begun and node.kind is not NodeKind.WAIT

    def unread_events(self, state: RunState) -> list[CarriedEvent]:
        """Find the events that can no longer be read: a worker logged that, and the executor did not learn of it."""
        found = [at for at in self.remaining if at not in state.tasks and at in self._image.finished]
        found = [at for at in found if self._image.finished[at].value.taken is not None]
        if not found:
            return []
        used = {at for _, node in self.specs.values() if node.kind is not NodeKind.WAIT for at in node.inputs}
        splits = [done.value.base for done in self._image.finished.values()]
        used |= {at for base in splits if isinstance(base, Split) for at, _ in base.ready}
        values = [self._image.finished[index].value for index in found if index not in used]
        return [
            CarriedEvent(value.taken, value.base)
            for value in values
            if value.taken is not None and value.taken.number not in state.carried
        ]


def _is_old(value: Value) -> bool:
    return isinstance(value.base, Split) and not value.base.counted
