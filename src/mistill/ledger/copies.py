"""Copied rows that part from their leader: where only some rows of one answer are asked again, the others keep it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from itertools import groupby

from mistill.ledger.tables import ATTEMPT_SUM

_CHOSEN = "temp.chosen_rows"
_OUTCOME = (
    "row, state, answer, more_answers, finish_reason, error_kind, error, input_tokens, output_tokens, cost, ended_at, "
    "settings"
)


def part_copies(
    connection: sqlite3.Connection, choice: str, values: tuple[object, ...], take_attempt: Callable[[], int]
) -> list[int]:
    """Parts rows that are chosen from those of the same answer that are not: afterwards they share no outcome.

    Whoever parts keeps the outcome: as one of the rows that its request asked, at no cost of its own.

    Args:
        choice: which rows of the current input, as a condition over ``row_states`` with ``values``.
        take_attempt: gives a number for an attempt.

    Returns the rows that are to be asked for the chosen ones.
    """
    connection.execute(f"DROP TABLE IF EXISTS {_CHOSEN}")
    connection.execute(
        f"CREATE TABLE {_CHOSEN} AS SELECT id FROM row_states WHERE position IS NOT NULL AND ({choice})",  # noqa: S608 - our own words
        values,
    )
    groups = connection.execute(
        f"""SELECT coalesce(same_as, id) AS leader, id, id IN (SELECT id FROM {_CHOSEN}) FROM rows
            WHERE position IS NOT NULL AND coalesce(same_as, id) IN (SELECT same_as FROM rows WHERE same_as IS NOT NULL)
            ORDER BY leader, position"""  # noqa: S608 - our own words
    ).fetchall()
    for leader, members in groupby(groups, key=lambda line: line[0]):
        is_chosen = {row: bool(chosen) for _, row, chosen in members}
        if len(set(is_chosen.values())) > 1:
            leads_chosen = is_chosen.get(leader, False)
            parting = [row for row, chosen in is_chosen.items() if chosen != leads_chosen]
            _part(connection, leader, parting, take_attempt)
    asked = connection.execute(
        f"SELECT DISTINCT coalesce(same_as, id) FROM rows WHERE id IN (SELECT id FROM {_CHOSEN})"  # noqa: S608 - our own words
    ).fetchall()
    connection.execute(f"DROP TABLE {_CHOSEN}")
    return [row for (row,) in asked]


def _part(
    connection: sqlite3.Connection, leader: int, parting: list[int], take_attempt: Callable[[], int]
) -> None:
    first, *others = parting
    connection.execute("UPDATE rows SET same_as = NULL WHERE id = ?", (first,))
    connection.executemany("UPDATE rows SET same_as = ? WHERE id = ?", [(first, row) for row in others])
    found = connection.execute(
        "SELECT answer, more_answers FROM outcomes WHERE row = ?", (leader,)
    ).fetchone()
    if found is None:
        return
    answer, more = found
    answers = [] if answer is None else [answer, *json.loads(more or "[]")]
    copies = [_copy_answer(connection, one, leader, first, take_attempt()) for one in answers]
    rest = json.dumps(copies[1:]) if len(copies) > 1 else None
    # What did not fit its sum before still does not.
    connection.execute(
        f"""INSERT INTO outcomes SELECT {_OUTCOME}, CASE WHEN sound THEN checksum('outcomes', {_OUTCOME}) ELSE -1 END
            FROM (SELECT ? AS row, state, ? AS answer, ? AS more_answers, finish_reason, error_kind, error,
                      0 AS input_tokens, 0 AS output_tokens, 0.0 AS cost, ended_at, settings,
                      checksum IS checksum('outcomes', {_OUTCOME}) AS sound
                  FROM outcomes WHERE row = ?)""",  # noqa: S608 - our own words
        (first, copies[0] if copies else None, rest, leader),
    )


def _copy_answer(connection: sqlite3.Connection, attempt: int, leader: int, row: int, number: int) -> int:
    connection.execute(
        """INSERT INTO attempts (id, row, sent_at, ended_at, status, input_tokens, output_tokens, cost, cached_tokens,
               settings, request, asked, checksum)
           SELECT ?, ?, sent_at, ended_at, status, 0, 0, CASE WHEN cost IS NOT NULL THEN 0.0 END, 0, settings,
               coalesce(request, id), asked, 0 FROM attempts WHERE id = ?""",
        (number, row, attempt),
    )
    connection.execute(f"UPDATE attempts SET checksum = {ATTEMPT_SUM} WHERE id = ?", (number,))  # noqa: S608 - our own words
    connection.execute(
        """INSERT INTO answers SELECT ?1, body,
               CASE WHEN checksum IS answer_sum(attempt, ?3, body) THEN answer_sum(?1, ?2, body) ELSE -1 END
           FROM answers WHERE attempt = ?4""",
        (number, row, leader, attempt),
    )
    return number
