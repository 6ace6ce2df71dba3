"""The loop of a search: ask, dispatch, receive. What it decides is `policy`'s, what it writes `trial_lifecycle`'s.

Everything that it decides is a function of what is on disk. So a kill at any moment costs the rungs in flight, and with
one worker the resumed search equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from searchkit.core import timing
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.state import decode_state
from searchkit.search import policy
from searchkit.search.asking import Asker
from searchkit.search.executors import Executor
from searchkit.search.families import FamilyAsker
from searchkit.search.fidelity import data_epochs
from searchkit.search.jobs import Outcome
from searchkit.search.policy import Halving, Next
from searchkit.search.progress import Reporter
from searchkit.search.settings import SearchStopped
from searchkit.search.trial_lifecycle import Flight, Lifecycle, has_a_value


@dataclass
class Loop:
    """Keeps the workers busy until the budget, the time or the space is used up.

    Attributes:
        lifecycle: Writes what happens to a trial.
        halving: Compares trials at their rungs.
        asker: Makes new trials.
        executor: Runs jobs.
        reporter: Tells whoever watches.
        first_rungs: Seconds that first rungs took.
        flights: What is being trained, by the job's key.
        failures: (what, reason) of the trials that failed since one was trained.
    """

    lifecycle: Lifecycle
    halving: Halving
    asker: Asker | FamilyAsker
    executor: Executor
    reporter: Reporter
    first_rungs: list[float]
    flights: dict[str, Flight] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def run(self, waiting: list[Flight]) -> None:
        """Train until there is nothing left to train.

        Args:
            waiting: What a kill left unfinished; it goes first.

        Raises:
            SearchStopped: The same error again and again.
            Interrupted: After Ctrl-C.
        """
        while True:
            raise_if_interrupted()
            while len(self.flights) < self.executor.capacity and self._has_time_for_a_rung():
                flight = waiting.pop(0) if waiting else self._next_flight()
                if flight is None:
                    break
                self._dispatch(flight)
            if not self.flights:
                break
            # at most half a minute: the time left is told anew, and Ctrl-C is heard
            # At least .1 s: a job that is being killed stays overdue until its outcome comes, and no wait at all would
            # spin.
            with timing.part("waiting for workers"):
                outcomes = self.executor.wait(min(30.0, max(0.1, self._patience())))
            for outcome in outcomes:
                self._receive(outcome)
            self._cancel_hung()
            self._report()
        for flight in waiting:
            self.lifecycle.cut_off(flight)

    def _next_flight(self) -> Flight | None:
        trial = self.asker.next_trial()
        return None if trial is None else Flight(trial, self.lifecycle.job(trial))

    def _dispatch(self, flight: Flight) -> None:
        self.lifecycle.depart_(flight)
        self.flights[flight.job.key] = flight  # first: a submitted job may come back at once
        self.executor.submit(flight.job)
        self._report()

    def _receive(self, outcome: Outcome) -> None:
        flight = self.flights.pop(outcome.key)
        flight.seconds += outcome.seconds
        timing.add(outcome.parts)
        if outcome.failure == "lost":
            flight.n_lost += 1
            self.lifecycle.log("lost", flight, reason=outcome.reason)
            if policy.is_retried(flight.n_lost):
                self._dispatch(flight)
                return
            outcome = replace(outcome, failure="crashed", reason=f"its worker died {flight.n_lost} times")
        if outcome.failure:
            self._fail(flight, outcome)
        else:
            self._weigh_up(flight, outcome)

    def _weigh_up(self, flight: Flight, outcome: Outcome) -> None:
        """Decide on a rung that was trained."""
        assert outcome.metrics is not None
        self.failures.clear()
        state, metric = decode_state(outcome.state), self.lifecycle.ctx.task.goal.metric
        rung = flight.job.rung + self.lifecycle.course(flight.trial).rungs_below
        stopped_by = state.numbers.get("stopped_by")
        if stopped_by != "time":  # what had less time is not compared with what had all, now or by a resumed search
            losses = self.lifecycle.losses(outcome.metrics[metric], flight.trial)
            flight.losses.append(losses)
            self.halving.record(flight.number, rung, losses)
        decision = self.halving.decide(flight.number, rung, stopped_by=stopped_by, epoch=state.epoch)
        if decision is Next.CUT_OFF:
            self.lifecycle.cut_off(flight)
            return
        if flight.job.rung == 0:
            self.first_rungs.append(outcome.seconds)
        # The time before `advance_`, after which the flight's job is the next rung: what ends here ended at this one.
        if decision is Next.GO_ON and self.lifecycle.seconds_left() > 0:
            self.lifecycle.advance_(flight, outcome, state)  # on disk before the next rung begins
            self._dispatch(flight)
            return
        if has_a_value(outcome, metric):
            self.lifecycle.finish(flight, outcome, state)
        else:
            self._fail(flight, replace(outcome, failure="diverged", reason=f"val {metric} is not a number"))

    def _fail(self, flight: Flight, outcome: Outcome) -> None:
        file = self.lifecycle.fail(flight, outcome)
        self._report(f"trial {flight.number} {outcome.failure}: {outcome.reason}")
        self.failures.append((outcome.failure, outcome.reason))
        if policy.keeps_crashing(self.failures):
            raise SearchStopped(
                f"{policy.MOST_EQUAL_ERRORS} trials in a row failed in the same way ({outcome.reason}); the whole "
                f"error is in {file}. Mend it and resume the run."
            )

    # ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_time_for_a_rung(self) -> bool:
        return policy.has_time_for_a_rung(self.lifecycle.seconds_left(), self.first_rungs)

    def _ends_at_most(self, flight: Flight) -> float:
        """When a flight is cancelled, on the monotonic clock: hung, or still running some time after the deadline."""
        rung, course = flight.job.rung, self.lifecycle.course(flight.trial)
        work = data_epochs(course.rung_epochs, course.seen)
        most = policy.most_seconds(
            self.reporter.settings.hang_seconds,
            spent=flight.seconds,
            done=sum(work[:rung]),
            until=sum(work[: rung + 1]),
        )
        return min(flight.since + most, flight.ends + policy.grace_seconds(self.first_rungs))

    def _patience(self) -> float:
        """Seconds until something may have to be cancelled."""
        return min(self._ends_at_most(flight) for flight in self.flights.values()) - time.monotonic()

    def _cancel_hung(self) -> None:
        """Kill what has not come back in time; the executor reports it as timed out."""
        now = time.monotonic()
        for key, flight in self.flights.items():
            if now > self._ends_at_most(flight):
                self.executor.cancel(key)

    def _report(self, note: str = "") -> None:
        self.reporter.n_running = len(self.flights)
        self.reporter.report(note)
