"""Strided layers on the phase that their input holds most of; one phase for each grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from symconv.conversion.antialiasing.grids import Grid, Grids, Map
from symconv.conversion.antialiasing.layers import Window
from symconv.conversion.antialiasing.moves import chosen_phase, joint_phase
from symconv.conversion.antialiasing.nodes import name_of, pads
from symconv.conversion.antialiasing.notes import Note, described
from symconv.functional import align, unalign


@dataclass
class Phases:
    """What has been put into the graph so far."""

    made: fx.GraphModule
    grids: Grids
    exact: bool
    chosen: dict[Grid, fx.Node] = field(default_factory=dict)
    aligned: dict[tuple[fx.Node, Grid, str], fx.Node] = field(default_factory=dict)
    first: dict[Grid, str] = field(default_factory=dict)

    def step(self, node: fx.Node, found: Window, grid: Grid) -> Note:
        """Let a strided layer read its input from the grid's phase."""
        source, chain = node.all_input_nodes[0], []
        while pads(self.made, source) is not None and _extended(self.grids, source):
            chain.append(source)
            source = source.all_input_nodes[0]
        circular = found.mode == "circular" or not (any(found.before) or any(found.after))
        circular = circular and all(
            (pads(self.made, n) or ((), ""))[1] == "circular" for n in chain
        )
        mode = "circular" if circular else "zeros"
        with self.made.graph.inserting_before(node):
            if grid not in self.chosen:
                self.chosen[grid] = self.made.graph.call_function(
                    chosen_phase, (source, grid.stride, self.exact)
                )
                self.first[grid] = name_of(node)
            key = (source, grid, mode)
            if key not in self.aligned:
                self.aligned[key] = self.made.graph.call_function(
                    align, (source, self.chosen[grid], mode)
                )
            moved = self.aligned[key]
            before = source
            for pad in reversed(chain):
                again = self.made.graph.node_copy(pad, {before: moved}.__getitem__)
                before, moved = pad, again
        node.replace_input_with(node.all_input_nodes[0], moved)
        shared = self.first[grid] != name_of(node)
        now = f"on the phase of {self.first[grid]}" if shared else "on the phase of its input"
        faults = [f.why for f in self.grids.faults if f.layer == name_of(node)]
        return Note(name_of(node), described(self.made, node), now, *_verdict(faults))

    def rise(self, node: fx.Node, chain: list[Grid]) -> Note | None:
        """Move what was upsampled back to where its phase came from."""
        if not chain or any(grid not in self.chosen for grid in chain):
            return None
        graph, last = self.made.graph, node
        users = list(node.users)
        if len(users) == 1 and getattr(users[0].target, "__name__", "") == "cropped":
            last = users[0]
        point = last.next
        with graph.inserting_before(point):
            phase = self.chosen[chain[-1]]
            stride = chain[-1].stride
            for grid in reversed(chain[:-1]):
                phase = graph.call_function(joint_phase, (phase, self.chosen[grid], stride))
                stride = tuple(a * b for a, b in zip(stride, grid.stride, strict=True))
            back = graph.call_function(unalign, (last, phase, "circular"))
        last.replace_all_uses_with(back, lambda user: user is not back)
        faults = [f.why for f in self.grids.faults if f.layer == name_of(node)]
        now = f"moved back by the phase of {self.first[chain[0]]}"
        return Note(name_of(node), described(self.made, node), now, *_verdict(faults))


def polyphase(made: fx.GraphModule, grids: Grids) -> list[Note]:
    """Rewrite a graph in place; a note for each layer."""
    phases = Phases(made, grids, not grids.faults)
    steps = {node: (found, grid) for node, found, grid in grids.steps}
    rises = {node: chain for node, _, chain in grids.rises}
    notes: list[Note | None] = []
    for node in list(made.graph.nodes):
        if node in steps:
            notes.append(phases.step(node, *steps[node]))
        elif node in rises:
            notes.append(phases.rise(node, rises[node]))
    return [note for note in notes if note is not None]


def _extended(grids: Grids, node: fx.Node) -> bool:
    return isinstance(grids.labels.get(node), Map)


def _verdict(faults: list[str]) -> tuple[str, str]:
    return ("approximate", "; ".join(faults)) if faults else ("exact", "")
