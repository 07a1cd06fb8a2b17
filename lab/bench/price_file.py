"""The price list of this machine as a file beside the stored runs."""

from __future__ import annotations

import json
from pathlib import Path

from lab.bench.store import write_whole
from lab.errors import StoreError
from lab.model.price import PriceList
from lab.model.run import Environment

NAME = "floors.json"


def write_prices(prices: PriceList, reports: Path) -> Path:
    """Writes reports/floors.json, whole or not at all; StoreError when the folder cannot be written."""
    target = reports / NAME
    try:
        write_whole(target, prices.as_dict())
    except OSError as error:
        raise StoreError(
            f"store the prices in {target}: it could not be written",
            kernel=error.strerror or str(error),
            mend="free some space, or name another file with --out",
        ) from error
    return target


def read_prices(reports: Path) -> PriceList | None:
    """The list in reports/floors.json, None where none was made; StoreError when it is damaged."""
    path = reports / NAME
    try:
        return PriceList.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"read {path}: no price list ({error})", mend="lab bench floors makes it anew") from error


def prices_for(environment: Environment, reports: Path) -> PriceList | None:
    """The list if it was made on that machine and kernel, None without one; StoreError as `read_prices`."""
    prices = read_prices(reports)
    return prices if prices is not None and prices.holds_in(environment) else None
