"""Resuming a search: what is on disk becomes what the loop would know if nobody had stopped it."""

from __future__ import annotations

from searchkit.core.serialization import JSON
from searchkit.search.policy import Halving
from searchkit.search.tally import TRAINED
from searchkit.search.trial_lifecycle import Flight, Lifecycle


def recover(lifecycle: Lifecycle, halving: Halving) -> list[Flight]:
    """Take up the trials of earlier processes.

    The losses of trained trials go to `halving`. Of those that a kill left running, one whose artifact is whole is
    told its value; the others stand where their last finished rung left them.

    Returns:
        The flights to go on with, in order of their numbers.
    """
    store, run = lifecycle.store, lifecycle.ctx.run
    for trial in store.trials():
        facts = trial.user_attrs
        if facts.get("status") == TRAINED:
            halving.recall(trial.number, facts["losses"], first=lifecycle.course(trial).rungs_below)
            if facts.get("owner") == store.owner:
                lifecycle.has_trained = True
                run.drop_state(lifecycle.state_key(trial))  # a kill between the value and this left it
    flights = []
    for trial in store.unfinished():
        id = lifecycle.artifact_id(trial)
        if run.has(id):
            artifact = run.load(id)
            halving.recall(trial.number, run.notes(artifact, "losses"), first=lifecycle.course(trial).rungs_below)
            lifecycle.tell(trial, artifact)
            continue
        state = run.load_state(lifecycle.state_key(trial))
        # What `Lifecycle.advance_` added to the training's own numbers; JSON has made its tuples lists.
        before: dict[str, JSON] = state.numbers.pop("search") if state else {"losses": [], "seconds": 0.0}
        losses = [tuple(row) for row in before["losses"]]
        halving.recall(trial.number, losses, first=lifecycle.course(trial).rungs_below)
        flights.append(Flight(trial, lifecycle.job(trial, state, len(losses)), losses, before["seconds"]))
    return flights
