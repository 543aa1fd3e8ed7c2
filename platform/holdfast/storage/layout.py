"""Every key of the store, and nothing else knows one.

One letter says what the row is; numbers are big-endian, so that byte order is
the order of submission, of tasks and of time. `seq` is the number a workflow
got when it was submitted. Names from outside (workflow ids, task ids) come in
as hashes, so that a key's length is bounded.

    i <hash of workflow id>       -> seq
    w <seq>                       workflow: status, times, metadata, output
    s <status> <seq>              status index
    f <status> 0 <end> <seq>      workflows that have ended, by when
    z <seq>                       a workflow that was removed, whose rows are going: the folder of its blobs
    b <nonce>                     -> seq: whose blobs lie in the folder of that name; empty for a schedule's
    j <nonce>                     a submission whose workflow or schedule was deleted while the platform was up: when
    l <seq>                       lease: epoch, executor
    a <executor> 0 <seq>          workflows that an executor holds in memory
    g <seq> <first task>          graph, in pieces
    t <seq> <task>                task: finished, continuing or failed
    y <seq> <task>                what a task waits for
    h <seq>                       what is live of a run that was put away, after a long history
    n <seq> <hash of task id>     -> task
    d <due time> <seq> <task>     timers
    e <seq> <number>              inbox: events not taken yet
    k <seq>                       number of the last event received
    x <seq> <hash of dedupe id>   -> number of the event, then the mark of the request that brought it
    r <hash of nonce>             answer of a request that may be repeated: workflow, status, when
    q <number>                    -> seq: workflows waiting for a place
    H <hash of name>              schedule: when, where it stands, what its runs are given
    G <hash of name> <first>      graph of a schedule, in pieces
    A <time> <hash of name>       when to look at a schedule again: its name
    c <name>                      counters
    m <name>                      settings of the platform

Events of outside sources (a source is `kind/connection/name`; `source` here is its number, `sel` the hash of the
text of a selector):

    o <hash of source's name>     -> source
    O <source>                    the source: name, counts, retention
    P <source> <partition>        how far a partition of it has been read
    E <source> <number>           an event
    K <source> <hash of key> <number>   the events of a key
    D <source> <hash of dedupe id>      -> number of the event
    F <source> <hash of fields>   a set of fields by which somebody selects
    R <source> <sel> <seq>        a workflow that waits
    C <seq> <source> <sel>        how far a workflow has read a stream
    W <seq> <source> <sel>        a workflow to be woken: there is an event for it
    Y <seq> <source> <sel>        as W, of a workflow that nobody drives: it reads the event when it is resumed
    U <hash of name>              -> subscription
    V <subscription>              what starts workflows from events
    S <source> <sel> <subscription>     a subscription by what it selects
    T <subscription> <number>     an event that is to start a workflow
    L <number>                    dead letters: what could not be taken in

Virtual actors have two letters, of which the first is v. They get their `seq` from the counter of workflows, are found
by the same `i` rows (an id is a workflow's or an actor's), and have leases in the same `l` and `a` rows, their hosts
being the executors:

    va <seq>                      actor: class, standing, state
    vo <seq>                      status of an actor, unless it is SUCCESSFUL
    vi <hash of class> <id, cut> <hash of id>   -> seq: actors of a class by id; all of them where that hash is 0
    vm <seq> <number>             mailbox: a call that is accepted and not over
    vq <hash of id> <number> <subscription>   mailbox: an event that has no number among the calls yet
    vg <seq> <first task>         graph that the first call of a mailbox went on with, in pieces
    vc <seq> <number>             a call that has ended
    vd <seq> <hash of mark>       -> number of the call of a nonce or an idempotency key
    vn <seq> <hash of name>       -> number of the call of a name
    vr <seq> <hash of name>       reminder
    vt <due time> <seq> <hash of name>   when to call an actor: a reminder; a call that is tried again where it is 0
    vz <seq>                      an actor that was removed, whose rows are going: the folder of its blobs
"""

from __future__ import annotations

import hashlib
import math
import struct

_U64 = struct.Struct(">Q")
_DUE = struct.Struct(">cQQQ")
# The greatest float that fits into eight bytes, half a million years from now.
_LAST_MICROS = math.nextafter(2.0**64, 0.0)


def pack(number: int) -> bytes:
    """A number as it stands in keys and counters."""
    return _U64.pack(number)


def unpack(raw: bytes) -> int:
    """The number that `pack` made this of."""
    number: int = _U64.unpack(raw)[0]
    return number


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=20).digest()


def workflow_id(name: str) -> bytes:
    """Where a workflow id leads to its seq."""
    return b"i" + _digest(name)


WORKFLOWS = b"w"


def workflow(seq: int) -> bytes:
    """The workflow's own row."""
    return b"w" + pack(seq)


def blob_group(nonce: str) -> bytes:
    """Where the folder of a submission's blobs leads to its workflow."""
    return b"b" + _digest(nonce)


DELETED = b"j"


def deleted(nonce: str) -> bytes:
    """A submission whose workflow was deleted: sent again, it is not to run again."""
    return b"j" + _digest(nonce)


def status(name: str, seq: int | None = None) -> bytes:
    """Index row of a workflow under its status; the prefix of a status without `seq`."""
    prefix = b"s" + name.encode() + b"\0"
    return prefix if seq is None else prefix + pack(seq)


def ended(status_name: str, ended_unix_s: float | None = None, seq: int = 0) -> bytes:
    """A workflow that has ended, by when; the prefix of all of a status without a time."""
    prefix = b"f" + status_name.encode() + b"\0"
    return prefix if ended_unix_s is None else prefix + pack(due_micros(ended_unix_s)) + pack(seq)


def read_ended(key: bytes) -> tuple[float, int]:
    """(end in seconds since the epoch, seq) of a row of the index of ended workflows."""
    return unpack(key[-16:-8]) / 1e6, unpack(key[-8:])


REMOVED = b"z"


def removed(seq: int) -> bytes:
    """A workflow that is not there any more, but for rows that nobody finds."""
    return b"z" + pack(seq)


def lease(seq: int) -> bytes:
    """Who drives the workflow, under which epoch."""
    return b"l" + pack(seq)


def active(executor: str, seq: int | None = None) -> bytes:
    """A workflow that an executor holds; the prefix of all of them without `seq`."""
    prefix = b"a" + executor.encode() + b"\0"
    return prefix if seq is None else prefix + pack(seq)


def active_beginning(names: str) -> bytes:
    """The prefix of all workflows held by executors whose names begin so."""
    return b"a" + names.encode()


def active_executor(key: bytes) -> str:
    """The executor of a workflow that is held."""
    return key[1:-9].decode()


def graph(seq: int, first: int | None = None) -> bytes:
    """A piece of a graph, by its first task."""
    prefix = b"g" + pack(seq)
    return prefix if first is None else prefix + pack(first)


def task(seq: int, index: int | None = None) -> bytes:
    """How a task ended: written once, and again only by a task that had failed."""
    prefix = b"t" + pack(seq)
    return prefix if index is None else prefix + pack(index)


def waiting(seq: int, index: int | None = None) -> bytes:
    """What a task waits for."""
    prefix = b"y" + pack(seq)
    return prefix if index is None else prefix + pack(index)


def snapshot(seq: int) -> bytes:
    """What is live of a run that was put away, under the epoch it was put away under."""
    return b"h" + pack(seq)


def task_name(seq: int, task_id: str | None = None) -> bytes:
    """Where a task id leads to its index."""
    prefix = b"n" + pack(seq)
    return prefix if task_id is None else prefix + _digest(task_id)


def due_micros(due_unix_s: float) -> int:
    """A due time as it stands in the index: never before the time asked for, and never is the last there is."""
    return max(0, math.ceil(min(due_unix_s * 1e6, _LAST_MICROS)))


TIMERS = b"d"


def timer(due_unix_s: float, seq: int, index: int) -> bytes:
    """A row of the due index."""
    return _DUE.pack(b"d", due_micros(due_unix_s), seq, index)


def read_timer(key: bytes) -> tuple[int, int, int]:
    """(due time in microseconds, seq, task) of a row of the due index."""
    _, micros, seq, index = _DUE.unpack(key)
    return micros, seq, index


def event(seq: int, number: int | None = None) -> bytes:
    """An event of the inbox that no task has taken yet."""
    prefix = b"e" + pack(seq)
    return prefix if number is None else prefix + pack(number)


def last_event(seq: int) -> bytes:
    """Number of the last event that the workflow received."""
    return b"k" + pack(seq)


def dedupe(seq: int, dedupe_id: str | None = None) -> bytes:
    """An event that was accepted under this id."""
    prefix = b"x" + pack(seq)
    return prefix if dedupe_id is None else prefix + _digest(dedupe_id)


ANSWERS = b"r"


def answer(nonce: str) -> bytes:
    """What a request with this mark was answered."""
    return b"r" + _digest(nonce)


QUEUE = b"q"


def queued(number: int) -> bytes:
    """A workflow that waits for a place, in order of arrival."""
    return b"q" + pack(number)


SCHEDULES = b"H"


def schedule(name: str) -> bytes:
    """A schedule."""
    return SCHEDULES + _digest(name)


def schedule_graph(name: str, first: int | None = None) -> bytes:
    """A piece of the graph that a schedule runs, by its first task; the prefix of all without `first`."""
    prefix = b"G" + _digest(name)
    return prefix if first is None else prefix + pack(first)


SCHEDULES_DUE = b"A"


def schedule_due(due_unix_s: float, name: str) -> bytes:
    """When to look at a schedule again."""
    return SCHEDULES_DUE + pack(due_micros(due_unix_s)) + _digest(name)


def read_schedule_due(key: bytes) -> int:
    """The time of such a row, in microseconds."""
    return unpack(key[1:9])


def counter(name: str) -> bytes:
    """A counter of the platform."""
    return b"c" + name.encode()


def setting(name: str) -> bytes:
    """A setting of the platform."""
    return b"m" + name.encode()


SOURCES = b"O"


def source_name(name: str) -> bytes:
    """Where the name of a source leads to its number."""
    return b"o" + _digest(name)


def source(number: int) -> bytes:
    """A source's own row."""
    return b"O" + pack(number)


def position(number: int, partition: str | None = None) -> bytes:
    """How far a partition has been read; the prefix of all without `partition`."""
    prefix = b"P" + pack(number)
    return prefix if partition is None else prefix + partition.encode("utf-8", "surrogatepass")


def position_partition(key: bytes) -> str:
    """The partition of a row of positions."""
    return key[9:].decode("utf-8", "surrogatepass")


def source_event(source_number: int, number: int | None = None) -> bytes:
    """An event of a source."""
    prefix = b"E" + pack(source_number)
    return prefix if number is None else prefix + pack(number)


def source_event_by_key(source_number: int, key: bytes, number: int | None = None) -> bytes:
    """An event of a source under its key."""
    prefix = b"K" + pack(source_number) + hashlib.blake2b(key, digest_size=20).digest()
    return prefix if number is None else prefix + pack(number)


def source_dedupe(source_number: int, dedupe_id: str) -> bytes:
    """An event that was accepted under this id, while it is kept."""
    return b"D" + pack(source_number) + _digest(dedupe_id)


def field_set(source_number: int, fields: str | None = None) -> bytes:
    """A set of fields by which somebody selects."""
    prefix = b"F" + pack(source_number)
    return prefix if fields is None else prefix + _digest(fields)


def readers(source_number: int, selector: str | None = None, seq: int | None = None) -> bytes:
    """A workflow that waits for an event; the prefixes of all that wait for the same, or on the same source."""
    prefix = b"R" + pack(source_number)
    if selector is None:
        return prefix
    prefix += _digest(selector)
    return prefix if seq is None else prefix + pack(seq)


def cursor(seq: int, source_number: int | None = None, selector: str = "") -> bytes:
    """How far a workflow has read a stream."""
    prefix = b"C" + pack(seq)
    return prefix if source_number is None else prefix + pack(source_number) + _digest(selector)


WAKES = b"W"


def wake(seq: int, source_number: int | None = None, selector: str = "") -> bytes:
    """A workflow for which there is an event to pull."""
    prefix = b"W" + pack(seq)
    return prefix if source_number is None else prefix + pack(source_number) + _digest(selector)


def wake_seq(key: bytes) -> int:
    """Give the workflow of a wake row, or of an unread one."""
    return unpack(key[1:9])


def wake_source(key: bytes) -> int:
    """Give the source of a wake row, or of an unread one."""
    return unpack(key[9:17])


UNREAD = b"Y"


def unread(seq: int, source_number: int | None = None, selector: str = "") -> bytes:
    """Make the key for a workflow that no executor drives, and that has an event to pull when it is resumed."""
    prefix = b"Y" + pack(seq)
    return prefix if source_number is None else prefix + pack(source_number) + _digest(selector)


SUBSCRIPTIONS = b"V"


def subscription_name(name: str) -> bytes:
    """Where the name of a subscription leads to its number."""
    return b"U" + _digest(name)


def subscription(number: int) -> bytes:
    """A subscription: what starts workflows from events."""
    return b"V" + pack(number)


def subscribers(source_number: int, selector: str | None = None, number: int | None = None) -> bytes:
    """A subscription by what it selects."""
    prefix = b"S" + pack(source_number)
    if selector is None:
        return prefix
    prefix += _digest(selector)
    return prefix if number is None else prefix + pack(number)


def start(subscription_number: int, number: int | None = None) -> bytes:
    """An event that is to start a workflow, or to call a virtual actor."""
    prefix = b"T" + pack(subscription_number)
    return prefix if number is None else prefix + pack(number)


DEAD_LETTERS = b"L"


def dead_letter(number: int) -> bytes:
    """What could not be taken in."""
    return b"L" + pack(number)


# -- virtual actors ----------------------------------------------------------------------------------------------------

_NO_NAME = bytes(20)
_LONGEST_IN_KEY = 400
"""Bytes of an actor's id that stand in the index by id; ids that differ later only are in no particular order."""

_ACTOR_DUE = struct.Struct(">2sQQ20s")


ACTORS = b"va"


def actor(seq: int) -> bytes:
    """An actor's own row."""
    return b"va" + pack(seq)


ACTORS_AT_WORK = b"vo"


def actor_status(seq: int) -> bytes:
    """What an actor is listed as, where that is not SUCCESSFUL."""
    return b"vo" + pack(seq)


ACTORS_BY_ID = b"vi"


def actors_by_id(class_name: str | None, actor_id: str | None = None, *, prefix: str = "") -> bytes:
    """Index row of an actor by class (None: of all classes) and id; without an id the beginning of several."""
    beginning = b"vi" + (_NO_NAME if class_name is None else _digest(class_name))
    if actor_id is None:
        return beginning + prefix.encode("utf-8", "surrogatepass")[:_LONGEST_IN_KEY]
    return beginning + actor_id.encode("utf-8", "surrogatepass")[:_LONGEST_IN_KEY] + b"\0" + _digest(actor_id)


def mailbox(seq: int, number: int | None = None) -> bytes:
    """A call that is accepted and not over."""
    prefix = b"vm" + pack(seq)
    return prefix if number is None else prefix + pack(number)


def message(actor_id: str, number: int | None = None, subscription_number: int = 0) -> bytes:
    """An event that is in an actor's mailbox and has no number among its calls yet."""
    prefix = b"vq" + _digest(actor_id)
    return prefix if number is None else prefix + pack(number) + pack(subscription_number)


def call_graph(seq: int, first: int | None = None) -> bytes:
    """A piece of the graph that the first call of a mailbox went on with."""
    prefix = b"vg" + pack(seq)
    return prefix if first is None else prefix + pack(first)


def ended_call(seq: int, number: int | None = None) -> bytes:
    """A call that has ended."""
    prefix = b"vc" + pack(seq)
    return prefix if number is None else prefix + pack(number)


def call_mark(seq: int, mark: str) -> bytes:
    """Where a nonce or an idempotency key leads to its call."""
    return b"vd" + pack(seq) + _digest(mark)


def call_name(seq: int, name: str) -> bytes:
    """Where a name leads to its call."""
    return b"vn" + pack(seq) + _digest(name)


def reminder(seq: int, name: str | None = None) -> bytes:
    """A reminder of an actor; the prefix of all of them without a name."""
    prefix = b"vr" + pack(seq)
    return prefix if name is None else prefix + _digest(name)


ACTORS_DUE = b"vt"


def actor_due(due_unix_s: float, seq: int, name: str | None = None) -> bytes:
    """When a reminder of an actor is due; without a name, when its first call is tried again."""
    return _ACTOR_DUE.pack(b"vt", due_micros(due_unix_s), seq, _NO_NAME if name is None else _digest(name))


def read_actor_due(key: bytes) -> tuple[int, int, bool]:
    """(due time in microseconds, seq, whether it is a reminder) of such a row."""
    _, micros, seq, name = _ACTOR_DUE.unpack(key)
    return micros, seq, name != _NO_NAME


REMOVED_ACTORS = b"vz"


def removed_actor(seq: int) -> bytes:
    """An actor that is not there any more, but for rows that nobody finds."""
    return b"vz" + pack(seq)


def rows_of_actor(seq: int) -> tuple[bytes, ...]:
    """Prefixes of all rows that belong to one actor alone, found under its number."""
    own = pack(seq)
    return (*(b"v" + letter + own for letter in (b"m", b"g", b"c", b"d", b"n", b"r", b"o", b"a")), b"l" + own)


def last_part(key: bytes) -> int:
    """The number a key ends with."""
    return unpack(key[-8:])


def rows_of(seq: int) -> tuple[bytes, ...]:
    """Prefixes of all rows that belong to one workflow alone."""
    own = pack(seq)
    return tuple(
        letter + own for letter in (b"g", b"t", b"y", b"h", b"n", b"e", b"k", b"x", b"l", b"C", b"W", b"Y", b"w")
    )
