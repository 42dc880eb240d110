"""From what was watched to the rows of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from symconv.auditing.counts.provenance import KEPT, MADE, Ledger, Provenance, Span
from symconv.auditing.counts.visits import Use, Visit, is_leaf, kind_of
from symconv.auditing.records import LayerRow, Total

_NAMELESS = {"Module", "InterpreterModule", "GraphModule"}  # modules of an exported program


@dataclass
class Draft:
    """A row while it is being summed; counts of one item, over all calls."""

    name: str
    kind: str
    order: float
    place: str  # the module it is, or is called in
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    calls: int = 0
    inputs: int = 0
    outputs: int = 0
    fan_in: int = 0
    connections: int | None = None
    reached: int = 0  # outputs that have those connections
    real: int = 0  # multiply-accumulates of weights with inputs that exist
    dense: int = 0
    macs: int = 0  # of all items; likewise the next
    padding_macs: int = 0
    parameters: int = 0  # that it owns
    weights: set[Span] = field(default_factory=set)  # that multiply inputs
    free_weights: int | None = None  # if a structure says how many
    unknown: dict[str, int] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)
    holder: bool = False  # stands for what a module with others inside owns itself

    def tells(self) -> bool:
        """Is there anything to report?"""
        works = self.output_shape is not None and not self.holder
        return bool(works or self.macs or self.unknown or self.parameters or self.remarks)

    def connect(self, pairs: int, outputs: int, fan_in: int, real: int) -> None:
        """Add connections that carry weights."""
        self.connections = (self.connections or 0) + pairs
        self.reached += outputs
        self.fan_in = max(self.fan_in, fan_in)
        self.real += real

    def span(self, inputs: int, outputs: int) -> None:
        """Add the lattices of one call."""
        self.inputs += inputs
        self.outputs += outputs
        self.dense += inputs * outputs

    def take(self, use: Use, items: int) -> None:
        """Add one contraction."""
        self.macs += use.macs
        self.padding_macs += use.padding_macs
        self.weights |= use.weights
        if use.connections is not None:
            real = (use.macs - use.padding_macs) // items
            self.connect(use.connections // items, use.outputs // items, use.fan_in, real)

    def visit(self, visit: Visit, items: int) -> None:
        """Add one call of a module that is one row."""
        self.calls += 1
        self.input_shape = self.input_shape or visit.input_shape
        self.output_shape = self.output_shape or visit.output_shape
        self.unknown |= visit.unknown
        self.remarks |= visit.remarks
        inputs, outputs = visit.inputs // items, visit.outputs // items
        if visit.structure is not None:
            self._structured(visit, items)
        uses = [use for use in visit.uses if not use.of_weights_alone]
        if len(uses) == 1:
            inputs, outputs = uses[0].inputs // items, uses[0].outputs // items
        self.span(inputs, outputs)
        for use in visit.uses:
            self.take(use, items)

    def _structured(self, visit: Visit, items: int) -> None:
        s = visit.structure
        assert s is not None
        times = visit.inputs // s.inputs
        self.macs += s.macs * times
        self.padding_macs += s.padding_macs * times
        self.free_weights = s.parameters
        pairs, outputs = s.connections * times // items, s.outputs * times // items
        self.connect(pairs, outputs, s.fan_in, (s.macs - s.padding_macs) * times // items)

    def row(self) -> LayerRow:
        """The finished row."""
        weights = Ledger().enter(self.weights) if self.free_weights is None else self.free_weights
        pairs, connected = self.connections or 0, self.connections is not None
        notes = sorted(self.remarks)
        if self.unknown:
            least = f"unknown, at least {self.macs:,} MACs: "
            notes.append(least + ", ".join(self.unknown))
        return LayerRow(
            name=self.name,
            kind=self.kind,
            input_shape=self.input_shape,
            output_shape=self.output_shape,
            inputs=self.inputs or None,
            outputs=self.outputs or None,
            fan_in=self.fan_in if connected else None,
            mean_fan_in=pairs / self.reached if connected and self.reached else None,
            connections=self.connections,
            parameters=self.parameters,
            weights=weights,
            uses=self.real / weights if weights and connected else None,
            macs=self.macs or (None if self.unknown else 0),
            padding_macs=self.padding_macs if self.macs or not self.unknown else None,
            dense_parameters=self.dense if connected else None,
            sharing=pairs / weights if weights and connected else None,
            calls=self.calls,
            note="; ".join(notes) or None,
        )


def tabulate(
    model: nn.Module, visits: list[Visit], items: int, provenance: Provenance
) -> tuple[tuple[LayerRow, ...], Total]:
    """Rows in the order of the first calls, and the totals.

    Args:
        model: The model.
        visits: The calls of modules that are reported.
        items: Items of the batch.
        provenance: Where the parameters lie; they are known there by their number in the model.
    """
    drafts = _Drafts(model, items, provenance)
    whole = {visit.name for visit in visits if visit.whole}
    for visit in visits:
        if visit.whole:
            drafts.of(visit.name, visit.kind, visit.name, visit.order).visit(visit, items)
        else:
            drafts.functions(visit, whole)
    drafts.own()
    kept = sorted(filter(Draft.tells, drafts.found.values()), key=lambda draft: draft.order)
    rows = tuple(draft.row() for draft in kept)
    free = sum(draft.free_weights or 0 for draft in kept)
    spans = {span for draft in kept if draft.free_weights is None for span in draft.weights}
    every = range(len(drafts.numbers))
    unknown = [f"{', '.join(d.unknown)} in {d.place}" for d in kept if d.unknown]
    total = Total(
        parameters=Ledger().enter(span for i in every for span in provenance.whole(i)),
        weights=free + Ledger().enter(spans),
        connections=sum(row.connections or 0 for row in rows),
        macs=sum(row.macs or 0 for row in rows),
        padding_macs=sum(row.padding_macs or 0 for row in rows),
        dense_parameters=sum(row.dense_parameters or 0 for row in rows),
        unknown=tuple(unknown),
    )
    return rows, total


class _Drafts:
    """The rows of a model while they are being summed, in the order of the first calls."""

    def __init__(self, model: nn.Module, items: int, provenance: Provenance):
        self.items, self.provenance = items, provenance
        self.modules = dict(model.named_modules())
        self.numbers = {id(parameter): i for i, parameter in enumerate(model.parameters())}
        self.found: dict[object, Draft] = {}
        self._names: dict[str, int] = {}
        self._owners: dict[int, str] = {}
        for name, module in self.modules.items():
            for number in self._parameters(module):
                self._owners.setdefault(number, name.split(".parametrizations")[0])

    def of(self, key: object, kind: str, name: str, order: float = math.inf) -> Draft:
        """The row of this key, begun if there is none."""
        if key not in self.found:
            place = name.split(":")[0] or type(self.modules[""]).__name__
            self.found[key] = Draft(name, kind, order, place)
        return self.found[key]

    def functions(self, visit: Visit, whole: set[str]) -> None:
        """What a module did by calling functions: a row each."""
        holder = self.of(visit.name, visit.kind, visit.name, visit.order)
        holder.holder = True
        holder.calls += 1
        holder.input_shape = holder.input_shape or visit.input_shape
        holder.output_shape = holder.output_shape or visit.output_shape
        holder.remarks |= visit.remarks
        for use in visit.uses:
            draft = self._function(visit, use, whole)
            draft.calls += 1
            draft.input_shape = draft.input_shape or use.input_shape
            draft.output_shape = draft.output_shape or use.output_shape
            draft.span(use.inputs // self.items, use.outputs // self.items)
            draft.take(use, self.items)
        for operation, order in visit.unknown.items():
            key = visit.name, operation
            name = self._named(key, visit.name, operation.split(" (")[0])
            draft = self.of(key, operation, name, order)
            draft.calls += 1
            draft.unknown[operation] = order

    def _function(self, visit: Visit, use: Use, whole: set[str]) -> Draft:
        """The row of a function: that of the layer whose weight it takes, if nobody calls it."""
        owners = {self._owners.get(number) for number in (use.sources or MADE) - {KEPT}}
        owner = owners.pop() if len(owners) == 1 else None
        if owner is not None and owner not in whole and owner != visit.name:
            module = self.modules[owner]
            kind = kind_of(module)
            if is_leaf(module) and owner.startswith(f"{visit.name}." if visit.name else ""):
                return self.of(owner, use.name if kind in _NAMELESS else kind, owner, use.order)
        key = visit.name, use.name, use.weights, use.input_shape, use.output_shape
        return self.of(key, use.name, self._named(key, visit.name, use.name), use.order)

    def _named(self, key: object, place: str, function: str) -> str:
        """Its name, "place:function", and "place:function_1" for the second one there."""
        if key in self.found:
            return self.found[key].name
        name = f"{place}:{function}"
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name

    def own(self) -> None:
        """Give every parameter to rows: to the layer's, else the function's, else to a new one."""
        ledger, layers = (
            Ledger(),
            [d for k, d in self.found.items() if k == d.name and not d.holder],
        )
        for draft in layers:
            inside = self._parameters(self.modules[draft.name], inside=True)
            spans = [span for number in inside for span in self.provenance.whole(number)]
            draft.parameters = Ledger().enter(spans)
            ledger.enter(spans)
        for draft in self.found.values():
            if not any(draft is layer for layer in layers):
                draft.parameters = ledger.enter(draft.weights)
        for name, module in self.modules.items():
            numbers = self._parameters(module)
            rest = ledger.enter(span for i in numbers for span in self.provenance.whole(i))
            if rest:
                name = name.split(".parametrizations")[0]
                draft = self.of(name, kind_of(self.modules[name]), name)
                draft.parameters += rest
                if not draft.calls and not self.provenance.used.intersection(numbers):
                    draft.remarks.add("not used in this call")

    def _parameters(self, module: nn.Module, inside: bool = False) -> list[int]:
        return [self.numbers[id(p)] for p in module.parameters(inside) if id(p) in self.numbers]
