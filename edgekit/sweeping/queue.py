"""What is still to be measured, shared by the workers: who takes what, what waits for an export, where things stand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.progress import ProgressEvent
from edgekit.schema.integrity import read_manifest
from edgekit.sweeping.cells import BundleKey, Cell, Session
from edgekit.sweeping.expected import ratio_for, seen_ratios
from edgekit.sweeping.exports import ExportJob
from edgekit.sweeping.journal import Account
from edgekit.sweeping.status import DeviceState, DeviceStatus, SweepStatus

#: A waiting worker looks this often whether it is to stop.
_POLL_S = 0.2


@dataclass
class _Lane:
    """One device's share."""

    total: int
    done: int
    failed: int
    waiting: list[Session] = field(default_factory=list)
    current: Session | None = None
    began: float = 0.0
    state: DeviceState = "waiting"
    detail: str = ""


class Queue:
    """Thread-safe; every change wakes the workers that wait."""

    def __init__(
        self,
        sessions: Sequence[Session],
        expected: Mapping[Session, float],
        totals: Mapping[str, tuple[int, int, int]],
        bundles: dict[BundleKey, Path],
        jobs: Sequence[ExportJob],
        account: Account,
    ) -> None:
        self._changed = threading.Condition()
        self._expected = dict(expected)
        self._bundles = bundles
        self._identities: dict[BundleKey, str] = {}
        self._account = account
        self._to_make = {key for job in jobs for key in job.keys}
        self._made: set[BundleKey] = set()
        self._given_up: set[BundleKey] = set()
        self._exporting = bool(jobs)
        self._lanes = {name: _Lane(*counts) for name, counts in totals.items()}
        for session in sessions:
            self._lanes[session.device].waiting.append(session)
        self._detail = ""

    # --- Workers ---

    def next(self, name: str, stop: threading.Event, *, wait_for_exports: bool, stay: bool) -> Session | None:
        """The next session of a device whose bundles are all made; None when there will be none.

        Args:
            name: the device.
            stop: ends the waiting.
            wait_for_exports: begin nothing while anything is exported.
            stay: also when nothing is left: another device's share may come.
        """
        lane = self._lanes[name]
        with self._changed:
            while not stop.is_set():
                blocked = wait_for_exports and self._exporting
                for index, session in enumerate(lane.waiting):
                    if not blocked and all(key in self._bundles for key in session.bundles):
                        lane.current = lane.waiting.pop(index)
                        lane.began = time.monotonic()
                        return lane.current
                if not lane.waiting and not (stay and self._others_busy(name)):
                    lane.state, lane.detail = "done", ""
                    self._changed.notify_all()
                    return None
                lane.state, lane.detail = "waiting", "for exports" if lane.waiting else "for nothing"
                self._changed.wait(_POLL_S)
        return None

    def _others_busy(self, name: str) -> bool:
        return any(
            lane.state != "quarantined" and (lane.waiting or lane.current)
            for other, lane in self._lanes.items()
            if other != name
        )

    def put_back(self, name: str, *sessions: Session) -> None:
        """What was taken is not done: these are next."""
        with self._changed:
            lane = self._lanes[name]
            if lane.current is not None:
                whole = self._expected.get(lane.current, 0.0)
                for session in sessions:
                    share = len(session.cells) / max(1, len(lane.current.cells))
                    self._expected.setdefault(session, whole * share)
            lane.current = None
            lane.waiting[:0] = sessions
            self._changed.notify_all()

    def done(self, name: str, session: Session) -> None:
        """What was taken is done."""
        with self._changed:
            lane = self._lanes[name]
            lane.current = None
            lane.done += len(session.cells)
            self._changed.notify_all()

    def failed(self, cells: Sequence[Cell]) -> None:
        """These cells will not be done; they were taken out before."""
        with self._changed:
            lane = self._lane_of(cells[0])
            lane.failed += len(cells)
            self._changed.notify_all()

    def _lane_of(self, cell: Cell) -> _Lane:
        return self._lanes[self._account.moved.get(cell.key, cell.device)]

    def waiting(self, name: str) -> list[Session]:
        """What a device has still to begin."""
        with self._changed:
            return list(self._lanes[name].waiting)

    def quarantine(self, name: str, reason: str, target: str | None) -> None:
        """Take a device out; its sessions stay with it, or at the same moment become those of ``target``."""
        with self._changed:
            lane = self._lanes[name]
            lane.state, lane.detail, lane.current = "quarantined", reason, None
            if target is not None:
                other, sessions = self._lanes[target], lane.waiting
                count = sum(len(session.cells) for session in sessions)
                lane.total -= count
                lane.waiting = []
                other.total += count
                other.waiting += sessions
            self._changed.notify_all()

    def usable(self, name: str) -> bool:
        """Whether a device has not been given up."""
        return self._lanes[name].state != "quarantined"

    # --- Bundles ---

    def folder(self, key: BundleKey) -> Path:
        """Where a made bundle lies."""
        return self._bundles[key]

    def identity(self, key: BundleKey) -> str:
        """A made bundle's identity."""
        if key not in self._identities:
            self._identities[key] = read_manifest(self._bundles[key]).identity
        return self._identities[key]

    def settled(self, key: BundleKey) -> bool:
        """Whether it is known what became of a bundle."""
        return key in self._bundles or key in self._given_up

    def made(self, key: BundleKey, folder: Path) -> None:
        """A bundle is there."""
        with self._changed:
            self._bundles[key] = folder
            self._made.add(key)
            self._changed.notify_all()

    def remove_bundle(self, key: BundleKey) -> list[list[Cell]]:
        """A bundle there will never be: its cells by device, taken out of every session."""
        found: list[list[Cell]] = []
        with self._changed:
            self._given_up.add(key)
            for lane in self._lanes.values():
                cells: list[Cell] = []
                kept: list[Session] = []
                for session in lane.waiting:
                    rest = tuple(cell for cell in session.cells if cell.bundle != key)
                    cells += [cell for cell in session.cells if cell.bundle == key]
                    if rest:
                        bundles = tuple(one for one in session.bundles if one != key)
                        smaller = Session(session.device, bundles, session.threads, rest)
                        share = len(rest) / len(session.cells)
                        self._expected.setdefault(smaller, self._expected.get(session, 0.0) * share)
                        kept.append(smaller)
                lane.waiting = kept
                if cells:
                    found.append(cells)
            self._changed.notify_all()
        return found

    @property
    def exporting(self) -> bool:
        """Whether anything is being exported."""
        return self._exporting

    def no_more_exports(self) -> None:
        """Nothing is exported any more."""
        with self._changed:
            self._exporting = False
            self._changed.notify_all()

    # --- Whoever looks ---

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def say(self, name: str, state: DeviceState, detail: str) -> None:
        """What a device does."""
        with self._changed:
            self._lanes[name].state, self._lanes[name].detail = state, detail

    def told(self, name: str, event: ProgressEvent) -> None:
        """What a session tells."""
        words = event.detail or event.stage
        amount = ""
        if event.done is not None and event.total:
            amount = f"{event.done / event.total:.0%} "
        self.say(name, "measuring", f"{amount}{words}")

    def told_of_exports(self, event: ProgressEvent) -> None:
        """What an export tells."""
        self._detail = f"{event.stage.removeprefix('export ')}: {event.detail}"

    def expected(self, session: Session) -> float | None:
        """Seconds of a session by the estimator alone."""
        return self._expected.get(session)

    def seconds_left(self, name: str) -> float:
        """Expected until a device is done."""
        with self._changed:
            return self._left(name, self._lanes[name], seen_ratios([self._account]))

    def _left(self, name: str, lane: _Lane, ratios: Mapping[str, float]) -> float:
        ratio = ratio_for(name, ratios)
        left = sum(self._expected.get(session, 0.0) for session in lane.waiting) * ratio
        if lane.current is not None:
            spent = time.monotonic() - lane.began
            left += max(0.0, self._expected.get(lane.current, 0.0) * ratio - spent)
        return left

    def status(self) -> SweepStatus:
        """Everything at this moment."""
        with self._changed:
            ratios = seen_ratios([self._account])
            devices = tuple(
                DeviceStatus(
                    name=name,
                    state=lane.state,
                    total=lane.total,
                    done=lane.done,
                    failed=lane.failed,
                    detail=lane.detail,
                    seconds_left=None if lane.state == "quarantined" else self._left(name, lane, ratios),
                )
                for name, lane in self._lanes.items()
            )
            return SweepStatus(
                devices=devices,
                exports_total=len(self._to_make),
                exports_done=len(self._made),
                exports_failed=len(self._given_up),
                exports_detail=self._detail if self._exporting else "",
            )


def keys_of(sessions: Iterable[Session]) -> list[BundleKey]:
    """Every bundle of some sessions, once."""
    return list(dict.fromkeys(key for session in sessions for key in session.bundles))
