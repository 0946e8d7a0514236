"""Server-sent events, however the network cuts them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mistill.api.stream import EventParser

payloads = st.lists(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    payloads,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 300), max_size=12),
    st.sampled_from(["data: ", "data:"]),
)
def test_events_come_whole_however_they_were_cut(
    texts: list[str], newline: str, places: list[int], field: str
) -> None:
    texts = [text if field == "data: " else text.lstrip(" ") or "x" for text in texts]
    stream = "".join(f"{field}{text}{newline}{newline}" for text in texts).encode()
    parser = EventParser()
    events = [event for piece in cut(stream, places) for event in parser.feed(piece)]
    events += parser.feed(b"x\n")  # a carriage return at the end waits for what comes next
    assert [event.decode() for event in events] == texts


def test_comments_and_other_fields_are_passed_over() -> None:
    parser = EventParser()
    assert parser.feed(b": ping\n\nevent: x\nid: 7\nretry: 3\ndata: a\n\n") == [b"a"]


def test_data_lines_of_one_event_are_joined() -> None:
    assert EventParser().feed(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_an_event_without_its_empty_line_has_not_come() -> None:
    assert EventParser().feed(b"data: a\n") == []
