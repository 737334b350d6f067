"""The delivery protocol as a pure machine: every order of outcomes ends well, and the drawing is the table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.deliver import protocol, steps
from pipeline.deliver.chunk_state import ENDS, HOLDING, MAX_BLAMED_ROWS, WORKING, ChunkState, Outcome, Phase, Route
from pipeline.deliver.protocol import TABLE, next_step

README = Path(protocol.__file__).with_name("README.md")


def claimed(*, rows: int = 8, doubtful: bool = False, lapses: int = 0) -> steps.Claimed:
    return steps.Claimed("s:0", 0, rows, doubtful, lapses)


def walk(*events: steps.Event, route: Route = Route.DRAIN) -> tuple[ChunkState, steps.Step]:
    """From the beginning through these events."""
    state, step = protocol.start(route)
    for event in events:
        state, step = next_step(state, event)
    return state, step


DONE = steps.Done()
ACCEPTED = steps.Accepted()
REFUSED = steps.Refused("code 469")
UNKNOWN = steps.Unknown("timed out")
FETCHED = steps.Fetched(0, 8)
FIRST_TRY = (claimed(), FETCHED, DONE, steps.Decoded(7, 1))
IN_DOUBT = (claimed(doubtful=True), FETCHED, DONE, steps.Decoded(7, 1))


def test_a_chunk_that_was_never_tried_is_inserted_at_once() -> None:
    """Letters first, then rows, each proved, then the ack; nothing is read back."""
    state, step = walk(*FIRST_TRY)
    assert step == steps.InsertLetters("s:0")
    state, step = next_step(state, ACCEPTED)
    assert step == steps.Insert("s:0", 0, 8)
    state, step = next_step(state, ACCEPTED)
    assert step == steps.Ack()
    state, step = next_step(state, DONE)
    assert (state.phase, step) == (Phase.DELIVERED, steps.End())


def test_a_chunk_in_doubt_is_read_back_before_and_after() -> None:
    """Only what is missing is inserted, and what ClickHouse accepted is believed only once it is seen."""
    _, step = walk(*IN_DOUBT)
    assert step == steps.ReadBack()
    _, step = walk(*IN_DOUBT, steps.Found(3, 0), ACCEPTED, ACCEPTED)
    assert step == steps.ReadBack()
    state, step = walk(*IN_DOUBT, steps.Found(3, 0), ACCEPTED, ACCEPTED, steps.Found(0, 0))
    assert step == steps.Ack()
    assert state.token == "s:0"


def test_an_insert_that_hangs_is_paused_read_back_and_tried_again_under_the_same_token() -> None:
    """An unknown outcome spends no token, however often; pauses count the failures in a row."""
    events: list[steps.Event] = [*FIRST_TRY, ACCEPTED]
    for failures in range(1, 5):
        _, step = walk(*events, UNKNOWN)
        assert step == steps.Pause(failures)
        events += [UNKNOWN, DONE, steps.Found(7, 0), ACCEPTED]
        _, step = walk(*events)
        assert step == steps.Insert("s:0", 0, 8)


def test_a_read_back_that_is_impossible_waits_and_spends_no_token() -> None:
    """Replicas that have not caught up, or an answer of something else: no insert until it is known what stands."""
    events: list[steps.Event] = [*FIRST_TRY, ACCEPTED, UNKNOWN, DONE]
    for _ in range(20):
        state, step = walk(*events)
        assert step == steps.ReadBack()
        assert state.tokens_spent == 0
        events += [UNKNOWN, DONE]


def test_the_next_token_is_used_only_when_rows_are_missing_although_the_one_before_was_accepted() -> None:
    """ClickHouse knows the token without its rows: it settles, is read back, and the rows come under the next one."""
    events = [*IN_DOUBT, steps.Found(3, 0), ACCEPTED, ACCEPTED, steps.Found(3, 0)]
    _, step = walk(*events)
    assert step == steps.Settle()
    _, step = walk(*events, DONE, steps.Found(0, 0))
    assert step == steps.Ack()
    _, step = walk(*events, DONE, steps.Found(3, 0), ACCEPTED)
    assert step == steps.Insert("s:0.1", 0, 8)


def search(faults: set[int], rows: int, *, share: float = 0.5) -> tuple[ChunkState, list[steps.Step]]:
    """Deliver a chunk of which ClickHouse refuses these rows; the steps that it took."""
    stored: set[int] = set()
    buried: set[int] = set()
    taken: list[steps.Step] = []
    state, step = protocol.start(Route.DRAIN, share)
    for event in (claimed(rows=rows), steps.Fetched(0, rows), DONE, steps.Decoded(rows, 0), ACCEPTED):
        state, step = next_step(state, event)
    while not state.is_over:
        taken.append(step)
        match step:
            case steps.Insert():
                missing = set(range(step.first, step.last)) - stored - buried
                refused = missing & faults
                stored |= set() if refused else missing
                event: steps.Event = REFUSED if refused else ACCEPTED
            case steps.Bury():
                buried |= {fault.position for fault in step.faults}
                event = ACCEPTED
            case steps.ReadBack():
                event = steps.Found(rows - len(stored) - len(buried), 0)
            case steps.ReadBackRange():
                middle = (step.first + step.last) // 2
                low = set(range(step.first, middle)) - stored
                high = set(range(middle, step.last)) - stored
                event = steps.FoundInRange(len(low), len(high))
            case steps.InsertLetters():
                event = ACCEPTED
            case _:
                event = DONE
        state, step = next_step(state, event)
    if state.phase is Phase.DELIVERED:
        assert stored == set(range(rows)) - faults
        assert buried == faults
    return state, taken


@given(st.integers(1, 200), st.data())
def test_rows_at_fault_are_found_and_nothing_else_is_buried(rows: int, data: st.DataObject) -> None:
    """Whichever rows ClickHouse refuses, they alone are buried, unless they are most of the chunk."""
    faults = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows))
    state, _ = search(faults, rows)
    if len(faults) <= max(MAX_BLAMED_ROWS, rows * 0.3):
        assert state.phase is Phase.DELIVERED
    assert state.phase in (Phase.DELIVERED, Phase.GIVEN_BACK)


def test_a_bad_neighbourhood_is_not_the_schema() -> None:
    """Two rows in five are at fault, and those that are tried first all are: the others are looked at before blame."""
    rows = 4_000
    faults = set(range(2_400, 4_000)) | set(range(0, 2_400, 50))
    state, _ = search(faults, rows)
    assert state.phase is Phase.DELIVERED


def test_when_every_row_is_refused_few_are_tried_one_by_one() -> None:
    """It is the schema: the chunk is given back with the reason, after less than a hundred inserts."""
    state, taken = search(set(range(100_000)), 100_000)
    assert (state.phase, state.reason) == (Phase.GIVEN_BACK, "code 469")
    assert sum(isinstance(step, steps.Insert) for step in taken) < 100
    assert not any(isinstance(step, steps.Bury) for step in taken)


def test_a_chunk_whose_drainers_die_is_set_aside() -> None:
    """After so many lapses before any insert it waits for a person, and others go on."""
    _, step = walk(claimed(lapses=protocol.MAX_LAPSES - 1))
    assert step == steps.Read()
    state, step = walk(claimed(lapses=protocol.MAX_LAPSES))
    assert isinstance(step, steps.SetAside)
    assert next_step(state, DONE)[0].phase is Phase.WAITS_FOR_A_PERSON


def test_a_spilled_chunk_leaves_redis_only_after_its_file_is_on_disk() -> None:
    """Read, seal on disk, file on disk, let go; no step of it asks ClickHouse."""
    order = [walk(*(claimed(), FETCHED, DONE, DONE, DONE)[: done + 1], route=Route.SPILL)[1] for done in range(5)]
    assert order == [steps.Read(), steps.SyncSeal(), steps.WriteFile(), steps.LetGo(), steps.End()]


def events_for(step: steps.Step) -> st.SearchStrategy[steps.Event]:
    """Whatever may come of a step."""
    counts = st.integers(0, 4)
    anytime: list[steps.Event] = [steps.ToldToStop(), steps.Fenced()]
    match step:
        case steps.Claim():
            return st.builds(
                claimed, doubtful=st.booleans(), lapses=st.sampled_from([0, 1, protocol.MAX_LAPSES])
            ) | st.just(steps.Nothing())
        case steps.GiveBack():
            return st.just(DONE)
        case steps.Read():
            return st.sampled_from([FETCHED, steps.Fetched(2, 8), steps.Damaged("gone"), *anytime])
        case steps.Decode():
            return st.builds(steps.Decoded, counts, counts) | st.sampled_from(anytime)
        case steps.ReadBack():
            return st.builds(steps.Found, counts, counts) | st.sampled_from([UNKNOWN, *anytime])
        case steps.ReadBackRange():
            return st.builds(steps.FoundInRange, counts, counts) | st.sampled_from([UNKNOWN, *anytime])
        case steps.Insert() | steps.InsertLetters() | steps.Bury():
            return st.sampled_from([ACCEPTED, REFUSED, UNKNOWN, *anytime])
        case _:
            return st.sampled_from([DONE, *anytime])


@given(st.sampled_from(list(Route)), st.data())
def test_whatever_comes_of_each_step_the_table_knows_what_is_next(route: Route, data: st.DataObject) -> None:
    """No outcome of any step in any state is unforeseen, no invariant breaks, and an end is an end."""
    state, step = protocol.start(route) if route is not Route.UNSPILL else protocol.start_from_file("s:0", 0, 8)
    for _ in range(60):
        if state.is_over:
            assert step == steps.End()
            return
        was_read_back = state.is_read_back or not state.is_doubtful
        if state.phase in (Phase.INSERT_ROWS, Phase.INSERT_LETTERS):
            assert was_read_back
        state, step = next_step(state, data.draw(events_for(step)))


def test_an_ack_is_reached_only_with_proof() -> None:
    """Into it leads a first insert that was proved, or a read-back that finds nothing missing."""
    into = {(phase, outcome) for (phase, outcome), to in TABLE.items() if to is Phase.ACK}
    assert into == {(Phase.INSERT_ROWS, Outcome.PROVED), (Phase.READ_BACK, Outcome.COMPLETE)}


def test_every_phase_can_be_stopped_and_fenced_and_every_end_is_reached() -> None:
    """The table has no phase from which nothing leads, and no name that nothing uses."""
    for phase in HOLDING:
        assert TABLE[phase, Outcome.LEASE_LOST] is Phase.FENCED
        assert TABLE[phase, Outcome.GIVE_UP] is Phase.GIVE_BACK
    assert {phase for phase, _ in TABLE} == set(WORKING)
    assert set(TABLE.values()) | {Phase.CLAIM} == set(Phase)
    assert {outcome for _, outcome in TABLE} == set(Outcome)
    assert not {phase for phase, _ in TABLE} & ENDS


def test_the_drawing_in_the_documentation_is_the_table() -> None:
    """It is made by ``python -m pipeline.deliver.protocol``."""
    assert f"```mermaid\n{protocol.drawing()}\n```" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(("phase", "event"), [(Phase.ACK, UNKNOWN), (Phase.READ, UNKNOWN)])
def test_what_cannot_happen_is_a_bug(phase: Phase, event: steps.Event) -> None:
    """An outcome that a step does not have stops the drainer."""
    with pytest.raises(KeyError):
        next_step(ChunkState(phase, Route.DRAIN), event)
