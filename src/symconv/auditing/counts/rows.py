"""From what was watched to the rows of the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from symconv.auditing.counts.provenance import distinct
from symconv.auditing.counts.watch import Use, Visit, is_leaf
from symconv.auditing.report import LayerRow, Total

_NAMELESS = {"Module", "InterpreterModule", "GraphModule"}  # modules of an exported program


@dataclass
class Draft:
    """A row while it is being summed; counts of one item, over all calls."""

    name: str
    kind: str
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
    parameters: set[int] = field(default_factory=set)  # that it owns
    weights: set[int] = field(default_factory=set)  # that multiply inputs
    free_weights: int | None = None  # if a structure says how many
    unknown: list[str] = field(default_factory=list)
    remarks: set[str] = field(default_factory=set)
    holder: bool = False  # stands for what a module with others inside owns itself

    def tells(self) -> bool:
        """Is there anything to report?"""
        return bool(not self.holder or self.parameters or self.remarks)

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
        self.weights |= use.parameters or set()
        if use.connections is not None:
            real = (use.macs - use.padding_macs) // items
            self.connect(use.connections // items, use.outputs // items, use.fan_in, real)

    def visit(self, visit: Visit, items: int) -> None:
        """Add one call of a module that is one row."""
        self.calls += 1
        self.input_shape = self.input_shape or visit.input_shape
        self.output_shape = self.output_shape or visit.output_shape
        self.unknown += visit.unknown
        self.remarks |= visit.remarks
        inputs, outputs = visit.inputs // items, visit.outputs // items
        if visit.structure is not None:
            self._structured(visit, items)
        elif len(visit.uses) == 1:
            inputs, outputs = visit.uses[0].inputs // items, visit.uses[0].outputs // items
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

    def row(self, parameters: list[Tensor]) -> LayerRow:
        """The finished row."""
        weights = self.free_weights
        if weights is None:
            weights = distinct(parameters[i] for i in self.weights)
        pairs, connected = self.connections or 0, self.connections is not None
        notes = sorted(self.remarks)
        if self.unknown:
            least = f"unknown, at least {self.macs:,} MACs: "
            notes.append(least + ", ".join(dict.fromkeys(self.unknown)))
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
            parameters=distinct(parameters[i] for i in self.parameters),
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
    model: nn.Module, parameters: list[Tensor], visits: list[Visit], items: int, used: set[int]
) -> tuple[tuple[LayerRow, ...], Total]:
    """Rows in the order of the first calls, and the totals.

    Args:
        model: The model.
        parameters: Its parameters by number.
        visits: Every call of a module.
        items: Items of the batch.
        used: Numbers of the parameters that some operation took.
    """
    drafts = _Drafts(model, parameters, items)
    whole = {visit.name for visit in visits if visit.whole}
    for visit in visits:
        if visit.whole:
            drafts.of(visit.name, visit.kind, visit.name).visit(visit, items)
        else:
            drafts.functions(visit, whole)
    drafts.own(used)
    kept = [draft for draft in drafts.found.values() if draft.tells()]
    rows = tuple(draft.row(parameters) for draft in kept)
    free = [d.free_weights for d in kept if d.free_weights is not None]
    multiplying = {i for d in kept if d.free_weights is None for i in d.weights}
    total = Total(
        parameters=distinct(parameters),
        weights=sum(free) + distinct(parameters[i] for i in multiplying),
        connections=sum(row.connections or 0 for row in rows),
        macs=sum(row.macs or 0 for row in rows),
        padding_macs=sum(row.padding_macs or 0 for row in rows),
        dense_parameters=sum(row.dense_parameters or 0 for row in rows),
        unknown=tuple(
            f"{d.name or d.kind}: {', '.join(dict.fromkeys(d.unknown))}" for d in kept if d.unknown
        ),
    )
    return rows, total


class _Drafts:
    """The rows of a model while they are being summed, in the order of the first calls."""

    def __init__(self, model: nn.Module, parameters: list[Tensor], items: int):
        self.items = items
        self.modules = dict(model.named_modules())
        self.numbers = {id(parameter): i for i, parameter in enumerate(parameters)}
        self.found: dict[object, Draft] = {}
        self._names: dict[str, int] = {}
        self._owners: dict[int, str] = {}
        for name, module in self.modules.items():
            for number in self._parameters(module):
                self._owners.setdefault(number, name.split(".parametrizations")[0])

    def of(self, key: object, kind: str, name: str) -> Draft:
        """The row of this key, begun if there is none."""
        if key not in self.found:
            self.found[key] = Draft(name, kind)
        return self.found[key]

    def functions(self, visit: Visit, whole: set[str]) -> None:
        """What a module did by calling functions: a row each."""
        holder = self.of(visit.name, visit.kind, visit.name)
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
        for operation in visit.unknown:
            key = visit.name, operation
            draft = self.of(key, operation, self._named(key, visit.name, operation))
            draft.calls += 1
            draft.unknown.append(operation)

    def _function(self, visit: Visit, use: Use, whole: set[str]) -> Draft:
        """The row of a function: that of the layer whose weight it takes, if nobody calls it."""
        owners = {self._owners.get(number) for number in use.parameters or ()}
        owner = owners.pop() if len(owners) == 1 else None
        if owner is not None and owner not in whole and owner != visit.name:
            module = self.modules[owner]
            kind = type(module).__name__.removeprefix("Parametrized")
            if is_leaf(module) and owner.startswith(f"{visit.name}." if visit.name else ""):
                return self.of(owner, use.name if kind in _NAMELESS else kind, owner)
        key = visit.name, use.name, use.parameters, use.input_shape, use.output_shape
        return self.of(key, use.name, self._named(key, visit.name, use.name))

    def _named(self, key: object, place: str, function: str) -> str:
        """Its name, "place:function", and "place:function_1" for the second one there."""
        if key in self.found:
            return self.found[key].name
        name = f"{place}:{function}"
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name

    def own(self, used: set[int]) -> None:
        """Give every parameter to rows: to the layer's, else the function's, else to a new one."""
        layers = [d for key, d in self.found.items() if isinstance(key, str) and not d.holder]
        for draft in layers:
            draft.parameters |= set(self._parameters(self.modules[draft.name], inside=True))
        owned = {number for draft in layers for number in draft.parameters}
        for draft in self.found.values():
            if not any(draft is layer for layer in layers):
                draft.parameters |= draft.weights - owned
                owned |= draft.parameters
        for name, module in self.modules.items():
            rest = set(self._parameters(module)) - owned
            if rest:
                name = name.split(".parametrizations")[0]
                draft = self.of(name, type(self.modules[name]).__name__, name)
                draft.parameters |= rest
                owned |= rest
                if not draft.calls and not rest & used:
                    draft.remarks.add("not used in this call")

    def _parameters(self, module: nn.Module, inside: bool = False) -> list[int]:
        return [self.numbers[id(p)] for p in module.parameters(inside) if id(p) in self.numbers]
