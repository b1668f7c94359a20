"""Collect the faults of an annotation source, to report all of them in one error."""

from retinanet.errors import InputError

MAX_LISTED = 5  # places shown for each kind of fault


class Faults:
    """Faults by kind, each with the first places where it occurs."""

    def __init__(self, source: str):
        self._source = source
        self._places: dict[str, list[str]] = {}
        self._count: dict[str, int] = {}

    def add(self, kind: str, place: str) -> None:
        """Record a fault.

        Args:
            kind: what is wrong and what to do; the same text for all faults of the kind.
            place: where it is, such as "labels/a.txt:3", and what was found there.
        """
        self._count[kind] = self._count.get(kind, 0) + 1
        places = self._places.setdefault(kind, [])
        if len(places) < MAX_LISTED:
            places.append(place)

    def check(self) -> None:
        """Raise if there are faults.

        Raises:
            InputError: the message has every kind of fault with its number.
        """
        if not self._count:
            return
        kinds = [
            f"{count} x {kind}: {', '.join(self._places[kind])}{', ...' if count > MAX_LISTED else ''}"
            for kind, count in self._count.items()
        ]
        raise InputError(f"{self._source}: {'; '.join(kinds)}")
