"""The audit of runs: their ledgers read, the bill asked for, and the one held against the other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from mistill.api.admin import Bill
from mistill.api.client import MistralClient
from mistill.api.endpoint import (
    MISTRAL_ENDPOINT,
    check_may_have_key,
    has_admin_api_elsewhere,
    is_this_machine,
    normalise_endpoint,
)
from mistill.audits.charges import LedgerTakings, charges_of, iso_day, lines_of, read_ledger
from mistill.audits.report import Audit, Difference
from mistill.audits.split import split_bill
from mistill.delivery.persistence import ask_patiently
from mistill.errors import (
    BadRequest,
    CapacityExceeded,
    Forbidden,
    InputError,
    MistillError,
    NotFound,
    RateLimited,
    Unauthorized,
)
from mistill.kinds.kept_settings import read_endpoint
from mistill.ledger import LedgerReader
from mistill.llms.event_loop import background
from mistill.wording import Part, Phrase, Setting, words

ADMIN_KEY_VARIABLE: Final = "MISTRAL_ADMIN_KEY"
_TIMEOUT_S = 60.0
_MONTH = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])")
_MOST_MONTHS = 24
_WITHOUT_BILL = Phrase("bill=False", "--no-bill")
_ADMIN_HINT = (
    "it takes a key of the Admin API, which organisations on Enterprise plans make for themselves; "
    "the key that requests go out with is none"
)


class Audited:
    """Ledgers whose attempts are held against the bill.

    Args:
        ledgers: their files.

    Raises:
        InputError: there is none. LedgerError: one cannot be read.
    """

    def __init__(self, ledgers: Sequence[Path]) -> None:
        if not ledgers:
            raise InputError("no run is named")
        self._paths = list(
            {os.path.realpath(path): path for path in ledgers}.values()
        )  # each once, whatever it is called
        self._ledgers: list[LedgerTakings] = [read_ledger(path) for path in self._paths]

    def audit(self, difference: Difference | None = None) -> Audit:
        """The lines by day, model and lane, with how they differ from the bill, where that is known."""
        return Audit(
            ledgers=[str(path) for path in self._paths], lines=lines_of(self._ledgers), difference=difference
        )

    def months(self) -> list[str]:
        """In which an attempt can have been billed by now, such as ``2026-11``, the oldest first."""
        now = _this_month()
        days = {day for ledger in self._ledgers for one in ledger.takings for day in one.days}
        return sorted({day[:7] for day in map(iso_day, days) if day is not None and day[:7] <= now})

    def against_bill(
        self,
        key: SecretStr,
        *,
        months: Sequence[str] | None = None,
        workspace: str | None = None,
        endpoint: str | None = None,
        allow_http: bool = False,
        trust: bool = False,
    ) -> Audit:
        """The audit with the bill, for which the server is asked. See `Run.audit`."""
        wanted = self._months(months)
        server = self._server(endpoint, allow_http=allow_http, trust=trust)
        bills = background.run(_bills(server, key, wanted, workspace))
        charges = charges_of(self._ledgers, wanted, begun=_this_month())
        return self.audit(split_bill(bills, charges, months=wanted, workspace=workspace))

    def _months(self, months: Sequence[str] | None) -> list[str]:
        if months:
            for month in months:
                _check_month(month)
            return sorted(set(months))
        found = self.months()
        if len(found) > _MOST_MONTHS:
            raise InputError(
                f"the ledger has attempts of {len(found)} months",
                hint=words("name those that are to be looked at: ", Setting("month", found[-1])),
            )
        return found or [_this_month()]

    def _server(self, endpoint: str | None, *, allow_http: bool, trust: bool) -> str:
        """Where the bill is asked for: by name, or where the run asked."""
        if endpoint is None:
            found = {self._endpoint_of(path, trust=trust) for path in self._paths}
            if len(found) > 1:
                raise InputError(
                    f"the runs asked at {' and '.join(sorted(found))}",
                    hint=words("audit those of one at a time, or name it: ", Setting("endpoint")),
                )
            (server,) = found
        else:
            server = normalise_endpoint(endpoint)
        if not (server.startswith("https:") or allow_http or is_this_machine(server)):
            raise InputError(
                f"{server} is not encrypted: whoever is on the way there could read the admin key",
                hint=words("use https, or set ", Setting("allow_http", True)),
            )
        return server

    @staticmethod
    def _endpoint_of(path: Path, *, trust: bool) -> str:
        with LedgerReader(path) as reader:
            endpoint = read_endpoint(reader) or MISTRAL_ENDPOINT
        if not trust:
            check_may_have_key(endpoint, f"the ledger {path}")
        return MISTRAL_ENDPOINT if has_admin_api_elsewhere(endpoint) else normalise_endpoint(endpoint)


def _this_month() -> str:
    """In UTC, such as ``2026-11``."""
    return datetime.now(UTC).strftime("%Y-%m")


def _check_month(month: str) -> None:
    if not _MONTH.fullmatch(month):
        raise InputError(words(Setting("month"), f": {month!r} is no month"), hint="write it as 2026-11")
    # A day more, since it may have begun where the user is.
    if date.fromisoformat(f"{month}-01") > (datetime.now(UTC) + timedelta(days=1)).date():
        raise InputError(words(Setting("month"), f": {month} has not begun yet, so it has no bill"))


def find_admin_key(given: SecretStr | str | None = None) -> SecretStr | None:
    """The key of the Admin API: as it is given, or of the environment; ``None``: there is none."""
    if given is None:
        given = os.environ.get(ADMIN_KEY_VARIABLE)
    plain = given.get_secret_value() if isinstance(given, SecretStr) else given
    return SecretStr(plain.strip()) if plain and plain.strip() else None


def no_admin_key() -> InputError:
    """There is none, though the bill is to be asked for."""
    return InputError(
        "there is no key of the Admin API, with which the bill can be asked for",
        hint=words(
            f"set the environment variable {ADMIN_KEY_VARIABLE}, or give ",
            Setting("admin_key"),
            f"; {_ADMIN_HINT}",
        ),
    )


async def _bills(endpoint: str, key: SecretStr, months: Iterable[str], workspace: str | None) -> list[Bill]:
    client = MistralClient(endpoint, key.get_secret_value(), _TIMEOUT_S, is_admin=True)
    try:
        return [await _bill(client, month, workspace) for month in months]
    except MistillError as error:
        what = words(*_what_to_do(error, workspace))
        error.hint = words(what, " " if what.endswith("?") else "; ", _WITHOUT_BILL, " leaves the bill out")
        raise
    finally:
        await client.close()


async def _bill(client: MistralClient, month: str, workspace: str | None) -> Bill:
    first = date.fromisoformat(f"{month}-01")
    return await ask_patiently(lambda: client.bill(first, workspace=workspace), f"the bill of {month}")


def _what_to_do(error: MistillError, workspace: str | None) -> Iterator[Part]:
    """About a bill that does not come."""
    if isinstance(error, Unauthorized) and error.status == 401:
        yield from (f"check {ADMIN_KEY_VARIABLE}, or give ", Setting("admin_key"), f": {_ADMIN_HINT}")
    elif isinstance(error, Forbidden | NotFound):
        yield "this key may not see it" if isinstance(error, Forbidden) else "this endpoint has no such bill"
        if workspace is not None:
            yield from (", or not that of this ", Setting("workspace"))
        yield f": {_ADMIN_HINT}"
    elif isinstance(error, BadRequest) and error.status in (400, 422):
        yield from ("its words say what it refuses: mend ", Setting("month"), " or ", Setting("workspace"))
    elif error.hint is None or isinstance(error, RateLimited | CapacityExceeded):
        yield "ask again later"
    else:
        yield error.hint
